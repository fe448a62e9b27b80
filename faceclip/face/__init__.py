"""Faces: find them in a photo, align them to ArcFace's template, and judge them."""

from .align import CROP_SIZE, AlignedFace, align_face
from .batch import FaceBatch, FaceChoice, OnNoFace, faces_from_images
from .detect import Backend, Order, detect_faces, load_detector
from .insightface_backend import Provider
from .photo import load_photo
from .protocol import DetectorUnavailableError, Face, FaceDetector, FaceError, NoFaceError
from .quality import FaceQuality, assess
from .similarity import FaceJudge, SimilarityScores, load_judge, rank_images
