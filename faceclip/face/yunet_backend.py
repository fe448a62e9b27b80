"""Faces with the pack's own detector: comes with the pack, runs on torch alone, free for commercial use.

YuNet finds; each find is looked at again, upright and turned by quarters, which tells a face from a pattern
and which way is up; O-Net then places the five points, in several frames and their mirror images. YuNet's own
points are only where O-Net starts: aligned by them, crops drift twice as far as dlib's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .align import TEMPLATES
from .photo import resize_to
from .plane import box_of, fit, once, turned_back
from .protocol import Face, Pause
from .yunet_networks import ONET_SIDE, STRIDES, load_networks

# Long sides, in pixels, at which the picture is looked at, how much smaller pictures are enlarged at most, and by how many
# quarters they are turned: the usual look; one for faces that fill the frame (the network knows faces up to some 300 px), lie on
# their side or stand on their head; one for small faces. 608: with 640, square pictures need so much memory at once that the
# system takes it back after each layer, which doubles the time.
LOOKS = ((608, 1.25, (0,)), (320, 2.0, (0, 1, 2, 3)), (1280, 2.0, (0,)))
# Pictures, and closer looks, that go through a network together: more take memory and are no faster.
PICTURES_AT_ONCE, VIEWS_AT_ONCE = 16, 32
# What the first look is to be of a find, for a closer one to be worth its time.
WORTH_A_LOOK = 0.4
# The closer look: the side of its square, and of the face in it.
VIEW, VIEW_FACE = 160, 96
OFF_CENTRE = VIEW / 5
# A face this surely upright need not be tried in other turns; another turn must be surer than upright by so much.
SURELY_UPRIGHT, UPRIGHT_BONUS = 0.9, 0.03
# A sight less sure than this is looked at in the mirror, too: patterns lose more by it than faces. What is not seen there at all
# counts as so much.
SURELY_A_FACE, UNSEEN = 0.86, 0.3
# YuNet's score plus a share of O-Net's: where true and false finds part, and how steeply confidence rises there. Chosen by
# `benchmarks/detection.py --choose`: there, pictures without a face reach 0.932, however turned or mirrored, and faces start
# at 1.007, but for nine that are blurred, covered or turned and fall below all that.
ONET_SHARE, SCORE_AT_HALF, SCORE_SLOPE = 0.2, 0.945, 20.0
# Pixels of the photo. Below that, textures look like faces; no likeness could be had of one.
SMALLEST_FACE = 18.0

_ARCFACE = TEMPLATES["arcface"] @ (1, 1j)
# Where O-Net's points fall on aligned crops, less the template: means over published ones, px of 448 (`benchmarks/alignment.py`).
_ONET_OFFSET = np.array([[-3.2, -1.0], [3.2, -1.0], [0.0, 8.4], [-4.9, -4.9], [4.9, -4.9]]) @ (1, 1j)
_ONET = _ARCFACE + _ONET_OFFSET
# The square that O-Net reads, in the same 448 px: the box that it was trained on.
_SQUARE_CENTRE, _SQUARE_SIDE = 216.0 + 253.5j, 435.0
# Frames whose points are averaged: factor of the square's side, and degrees.
_FRAMES = ((0.95, -4.5), (1.05, 4.5))
_MIRRORED = [1, 0, 2, 4, 3]
# A head that O-Net sees turned by so much more (radians) than YuNet's points have it is read again.
TIPPED = math.radians(10)


class YuNetDetector:
    """The pack's own detector.

    Raises:
        DetectorUnavailableError: its weights, which come with the pack, are missing or damaged.
    """

    name = "yunet"
    tried = f"looked at {LOOKS[0][0]} px, at {LOOKS[1][0]} px in four turns, and at {LOOKS[2][0]} px"
    looks = len(LOOKS)

    def __init__(self, device: torch.device | str = "cpu"):
        self._networks = load_networks(device)
        self._device = torch.device(device)

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces found by the usual look at `image`, uint8 [H, W, 3] RGB."""
        return next(self.passes(image))

    def passes(self, image: np.ndarray, pause: Pause | None = None) -> Iterator[list[Face]]:
        """Yield the faces found at the usual size, then at others."""
        for number in range(self.looks):
            yield self.look([image], number)[0]

    @torch.inference_mode()
    def look(self, images: Sequence[np.ndarray], number: int) -> list[list[Face]]:
        """Return the faces of each image at look `number`: pictures that come out equal in size share their batches."""
        size, enlarged, turns = LOOKS[number]
        shrunk = [resize_to(image, min(size, round(enlarged * max(image.shape[:2])))) for image in images]
        finds: list[_Find] = []
        for places, batch in _batches([small for small, _ in shrunk]):
            height, width = batch.shape[1:3]
            for turn in turns:
                for place, (boxes, _, scores) in zip(places, self._find(batch.rot90(turn, (1, 2))), strict=True):
                    corners = turned_back(boxes.reshape(-1, 2, 2) @ (1, 1j), turn, width, height)
                    corners = (corners + 0.5 + 0.5j) / shrunk[place][1] - (0.5 + 0.5j)
                    finds += [_Find(place, corner, score) for corner, score in zip(corners, scores, strict=True)]
        finds = [finds[i] for i in _once_each(finds) if finds[i].size >= SMALLEST_FACE]
        faces: list[list[Face]] = [[] for _ in images]
        for start in range(0, len(finds), VIEWS_AT_ONCE):
            some = finds[start : start + VIEWS_AT_ONCE]
            views = np.stack([find.view(images[find.place], *shrunk[find.place]) for find in some])
            for place, face in self._closer(some, torch.from_numpy(views)):
                faces[place].append(face)
        return [_each_once(found) for found in faces]

    def _find(self, pictures: Tensor) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """uint8 [B, h, w, 3] RGB -> per picture boxes [n, 4], points [n, 5] (complex: x + iy) and scores [n] of 0 to 1."""
        x = pictures.to(self._device).flip(3).permute(0, 3, 1, 2).float()  # BGR, as the network was trained
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1]))
        found = []
        for stride, maps in zip(STRIDES, self._networks.yunet(x.contiguous(memory_format=torch.channels_last)), strict=True):
            scores = (maps[:, 0].sigmoid() * maps[:, 1].sigmoid()).sqrt()
            place, y, x_ = torch.nonzero(scores >= WORTH_A_LOOK, as_tuple=True)
            cell = torch.stack([x_, y], 1)
            values = maps[place, 2:, y, x_]
            centre = (cell + values[:, :2]) * stride
            half = (values[:, 2:4].exp() * (stride / 2)).clamp(max=max(height, width))
            points = (values[:, 4:].unflatten(1, (5, 2)) + cell[:, None]) * stride
            one = [place[:, None].float(), scores[place, y, x_][:, None], centre - half, centre + half, points.flatten(1)]
            found.append(torch.cat(one, 1))
        table = torch.cat(found).double().cpu().numpy()
        result = []
        for place in range(len(pictures)):
            rows = table[table[:, 0] == place]
            rows = rows[once(rows[:, 2:6], rows[:, 1])]
            result.append((rows[:, 2:6], rows[:, 6::2] + 1j * rows[:, 7::2], rows[:, 1]))
        return result

    def _closer(self, finds: Sequence[_Find], views: Tensor) -> Iterator[tuple[int, Face]]:
        """Look at each find again, in `views` uint8 [n, VIEW, VIEW, 3]; yield faces with their pictures' places."""
        best: list[_Sight | None] = [None] * len(finds)
        for turns in ((0,), (1, 2, 3)):
            open_ = [i for i, sight in enumerate(best) if sight is None or sight.score < SURELY_UPRIGHT]
            if not open_:
                break
            turned = torch.cat([torch.rot90(views[open_], turn, (1, 2)) for turn in turns])
            for row, seen in enumerate(self._find(turned)):
                index = open_[row % len(open_)]
                best[index] = _better(best[index], turns[row // len(open_)], *seen)
        kept = [(i, sight) for i, sight in enumerate(best) if sight is not None]
        if not kept:
            return
        rows = [i for i, _ in kept]
        scores = self._seen_twice(kept, views)
        points, sure, spread = self._place_points(views[rows], np.stack([sight.points for _, sight in kept]))
        for (i, sight), mirrored, landmarks, face, apart in zip(kept, scores, points, sure, spread, strict=True):
            score = (max(finds[i].score, sight.score) + mirrored) / 2 + ONET_SHARE * face
            confidence = 1 / (1 + math.exp(-SCORE_SLOPE * (score - SCORE_AT_HALF)))
            at = finds[i].to_photo(landmarks)
            box = box_of(finds[i].to_photo(sight.corners))
            five = np.stack([np.real(at), np.imag(at)], 1).astype(np.float32)
            yield finds[i].place, Face(box, five, "arcface", confidence, float(apart))

    def _seen_twice(self, kept: Sequence[tuple[int, _Sight]], views: Tensor) -> list[float]:
        """What the mirror images of the less sure sights score; the sure ones' own scores."""
        scores = [sight.score for _, sight in kept]
        unsure = [row for row, score in enumerate(scores) if score < SURELY_A_FACE]
        if unsure:
            turned = [torch.rot90(views[kept[row][0]], kept[row][1].turn, (0, 1)).flip(1) for row in unsure]
            for row, seen in zip(unsure, self._find(torch.stack(turned)), strict=True):
                again = _better(None, 0, *seen)
                scores[row] = UNSEEN if again is None else again.score
        return scores

    def _place_points(self, views: Tensor, start: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What O-Net makes of `views` uint8 [n, VIEW, VIEW, 3] whose points are about `start` [n, 5].

        Returns points [n, 5] (complex) in ArcFace's terms, how surely each is a face [n], 0 to 1, and how far the
        points of different frames lie apart [n], in pixels of a crop of 448.
        """
        # A face in a view is twice as large as O-Net reads it: averaged here once, it can be sampled plainly.
        half = F.avg_pool2d(views.to(self._device).permute(0, 3, 1, 2).float(), 2)
        first, sure_at_first = self._read(half, start, _ARCFACE, ((1.0, 0.0),))
        points = first.mean(1)
        further = np.angle(fit(points, _ONET)[0] / fit(start, _ARCFACE)[0])
        tipped = np.flatnonzero(np.abs(further) > TIPPED).tolist()
        if tipped:  # their first points are only halfway there
            again, _ = self._read(half[tipped], points[tipped], _ONET, ((1.0, 0.0),))
            points[tipped] = again.mean(1)
        frames, sure = self._read(half, points, _ONET, _FRAMES)
        points = frames.mean(1)
        scale = fit(points, _ONET)[0]
        spread = np.abs(frames - points[:, None]).mean((1, 2)) * np.abs(scale)
        return points - _ONET_OFFSET / scale[:, None], (sure_at_first + sure) / 2, spread

    def _read(
        self, half: Tensor, points: np.ndarray, template: np.ndarray, frames: Sequence[tuple[float, float]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Let O-Net read the squares that take `points` [n, 5] to `template`, in every frame and mirrored.

        Returns its points [n, 2 frames, 5], and how surely it sees a face [n], the mean over frames.
        """
        scale, shift = fit(points, template)
        # Square pixel = a * view pixel + b, for every face and frame.
        turn = np.array([np.exp(1j * np.radians(degrees)) / factor for factor, degrees in frames]) * (ONET_SIDE / _SQUARE_SIDE)
        a = scale[:, None] * turn
        b = (shift[:, None] - _SQUARE_CENTRE) * turn + (ONET_SIDE - 1) / 2 * (1 + 1j)
        squares = _sample(half, a, b)
        read, sure = self._networks.onet(torch.cat([squares, squares.flip(3)]).contiguous(memory_format=torch.channels_last))
        read = read.double().cpu().numpy() @ (1, 1j)
        seen, mirrored = read.reshape(2, len(points), len(frames), 5)
        mirrored = ONET_SIDE - 1 - mirrored.conj()
        both = np.stack([seen, mirrored[:, :, _MIRRORED]], 2)
        sure = sure.double().cpu().numpy().reshape(2, len(points), len(frames)).mean((0, 2))
        return ((both - b[:, :, None, None]) / a[:, :, None, None]).reshape(len(points), -1, 5), sure


@dataclass(frozen=True, eq=False)
class _Find:
    """What the first look found: which picture, two opposite corners of the
    box there (complex: x + iy), and its score."""

    place: int
    corners: np.ndarray
    score: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1."""
        return box_of(self.corners)

    @property
    def size(self) -> float:
        """Longer side of the box, in pixels of the picture."""
        x0, y0, x1, y1 = self.box
        return max(x1 - x0, y1 - y0)

    @property
    def _scale(self) -> float:
        return VIEW_FACE / max(self.size, 1.0)

    @property
    def _shift(self) -> complex:
        return complex((VIEW - 1) / 2 * (1 + 1j) - self._scale * self.corners.mean())

    def view(self, image: np.ndarray, shrunk: np.ndarray, scale: float) -> np.ndarray:
        """uint8 [VIEW, VIEW, 3]: the find's surroundings, from the shrunk picture if the face is large enough there."""
        image, scale = (shrunk, scale) if scale >= self._scale else (image, 1.0)
        # Counted from the corner of the first pixel.
        middle, half = scale * (self.corners.mean() + 0.5 + 0.5j), scale * VIEW / self._scale / 2
        left, top, right, bottom = middle.real - half, middle.imag - half, middle.real + half, middle.imag + half
        x, y = math.floor(left), math.floor(top)
        around = np.zeros((math.ceil(bottom) - y, math.ceil(right) - x, 3), np.uint8)  # black where the picture ends
        inside = image[max(0, y) : max(0, y + around.shape[0]), max(0, x) : max(0, x + around.shape[1])]
        around[max(0, -y) :, max(0, -x) :][: inside.shape[0], : inside.shape[1]] = inside
        box = (left - x, top - y, right - x, bottom - y)
        return np.asarray(Image.fromarray(around).resize((VIEW, VIEW), Image.Resampling.BICUBIC, box, reducing_gap=3.0))

    def to_photo(self, points: np.ndarray) -> np.ndarray:
        """Points of the view in the picture's pixels; complex, x + iy."""
        return (points - self._shift) / self._scale


@dataclass(frozen=True, eq=False)
class _Sight:
    """The best of what the closer looks saw: by how many quarters turned, how surely a face, its points, and
    corners of its box, in the view's pixels."""

    turn: int
    score: float
    rank: float
    points: np.ndarray
    corners: np.ndarray


def _batches(pictures: Sequence[np.ndarray]) -> Iterator[tuple[list[int], Tensor]]:
    """Yield batches uint8 [B, h, w, 3] of pictures of one size, with their places."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, picture in enumerate(pictures):
        groups.setdefault(picture.shape, []).append(place)
    for group in groups.values():
        for start in range(0, len(group), PICTURES_AT_ONCE):
            places = group[start : start + PICTURES_AT_ONCE]
            yield places, torch.from_numpy(np.stack([pictures[i] for i in places]))


def _better(best: _Sight | None, turn: int, boxes: np.ndarray, points: np.ndarray, scores: np.ndarray) -> _Sight | None:
    """The better of `best` and what was seen in the middle of the view turned by so many quarters."""
    for box, five, score in zip(boxes, points, scores, strict=True):
        rank = score + UPRIGHT_BONUS * (turn == 0)
        if np.abs((box[:2] + box[2:]) / 2 - (VIEW - 1) / 2).max() < OFF_CENTRE and (best is None or rank > best.rank):
            corners = box.reshape(2, 2) @ (1, 1j)
            best = _Sight(turn, float(score), float(rank), *(turned_back(z, turn, VIEW, VIEW) for z in (five, corners)))
    return best


def _sample(half: Tensor, a: np.ndarray, b: np.ndarray) -> Tensor:
    """Squares [n * frames, 3, 48, 48] of views at half size [n, 3, VIEW / 2, VIEW / 2].

    Square pixel = a * view pixel + b.
    """
    across = np.arange(ONET_SIDE)
    grid = across[None, :] + 1j * across[:, None]
    there = (grid - b[..., None, None]) / a[..., None, None]  # view pixels, counted from the middle of the first
    there = (there + 0.5 * (1 + 1j)) * (2 / VIEW) - (1 + 1j)
    where = torch.from_numpy(np.stack([there.real, there.imag], -1)).to(half)
    views = half.repeat_interleave(a.shape[1], 0)
    return F.grid_sample(views, where.flatten(0, 1), "bicubic", align_corners=False).clamp(0, 255)


def _once_each(finds: Sequence[_Find]) -> list[int]:
    """Indices of finds, each place of each picture once: several turns of a picture may show the same face."""
    boxes = np.array([find.box for find in finds]).reshape(-1, 4)
    scores, places = np.array([find.score for find in finds]), np.array([find.place for find in finds])
    kept: list[int] = []
    for place in np.unique(places):
        own = np.flatnonzero(places == place)
        kept += own[once(boxes[own], scores[own])].tolist()
    return kept


def _each_once(faces: list[Face]) -> list[Face]:
    """Each face once: two finds may lead to the same face."""
    boxes = np.array([face.box for face in faces]).reshape(-1, 4)
    return [faces[i] for i in once(boxes, np.array([face.confidence for face in faces]))]
