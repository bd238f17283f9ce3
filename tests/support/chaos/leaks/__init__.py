"""The leak checker: bytes sent to principals, against what MongoDB finds for them by filters written by hand."""
