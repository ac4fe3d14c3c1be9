from qa_fast.export.formats import FORMATS
from qa_fast.export.write import Exported, export_model

__all__ = ["FORMATS", "Exported", "export_model"]
