"""BSON values and their JSON forms: MongoDB Extended JSON, both ways, types intact. Pure."""
