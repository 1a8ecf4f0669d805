from .bench import study as study
from .catalogue import STUDIES as STUDIES
