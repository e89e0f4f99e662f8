"""Names that launch files import from `launch.utilities`."""

from .entities import normalize_to_list_of_entities
from .substitution import normalize_to_list_of_substitutions, perform_substitutions

__all__ = ["normalize_to_list_of_entities", "normalize_to_list_of_substitutions", "perform_substitutions"]
