"""Predicates over documents: a part of MongoDB's query language, with exactly MongoDB's answers. Pure.

`predicate` has filters without parameters, `definitions` those with parameters, which make routes, `keys` finds the
keys of documents, and `declarations` reads the definitions of a rules file. `routed_shape` has the text of a
definition's name with values, and `parameter_types` the values that a parameter takes. Below these: `parsing` makes
trees of filters and refuses what is not evaluated, `nodes` has the trees and their canonical form, `matching` turns
them into functions, and `ordering` compares values.

A filter is never more open than MongoDB. Where a value that no driver can read decides, the document matches nothing.
"""

__all__ = ["declarations", "definitions", "keys", "ordering", "parsing", "predicate", "routed_shape"]
