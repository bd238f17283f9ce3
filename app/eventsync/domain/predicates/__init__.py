"""Predicates over documents: a part of MongoDB's query language, with exactly MongoDB's answers. Pure.

`predicate` has filters, compiled once. Below it: `parsing` makes trees of filters and refuses what is not evaluated,
`nodes` has the trees and their canonical form, `matching` turns them into functions, and `ordering` compares values.

A filter is never more open than MongoDB. Where a value that no driver can read decides, the document matches nothing.
"""

__all__ = ["parsing", "predicate"]
