"""BSON values and their JSON forms: MongoDB Extended JSON, both ways, types intact. Pure."""

__all__ = ["extended_json", "json_document", "numbers", "type_hints", "type_wrappers"]
