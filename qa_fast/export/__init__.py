from qa_fast.export.formats import FORMATS
from qa_fast.export.onnx_files import WEB_FILES
from qa_fast.export.write import Exported, export_model

__all__ = ["FORMATS", "WEB_FILES", "Exported", "export_model"]
