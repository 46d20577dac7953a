"""Hadamard matrices from finite fields: Paley's constructions I and II, for any prime-power field.

R. E. A. C. Paley, "On orthogonal matrices", J. Math. Phys. 12 (1933). With q an odd prime power and
Q[a, b] = chi(a - b), chi the quadratic character of GF(q):

- I, q = 3 mod 4: order q + 1;
- II, q = 1 mod 4: order 2 (q + 1).

An element of GF(p^k) is a polynomial over GF(p) and is numbered by its coefficients read as digits in base p.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor


@dataclass(frozen=True)
class Field:
    """The finite field with prime ** degree elements."""

    prime: int
    degree: int

    @property
    def order(self) -> int:
        return int(self.prime**self.degree)


def paley_field(order: int) -> Field | None:
    """The field whose Paley construction has this matrix order, or None; construction I is tried first."""
    if order < 4 or order % 4:
        return None
    # order % 4 == 0 makes order - 1 = 3 mod 4, as construction I needs; construction II needs order % 8 == 4.
    field = _prime_power(order - 1)
    if field is None and order % 8 == 4:
        field = _prime_power(order // 2 - 1)
    return field


def paley_matrix(order: int) -> Tensor | None:
    """H (order, order) float64 of ±1 with H Hᵀ = order · I, or None where no Paley construction has that order."""
    field = paley_field(order)
    if field is None:
        return None
    q = field.order
    first = order == q + 1
    core = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    core[0, 1:] = 1
    core[1:, 0] = -1 if first else 1
    core[1:, 1:] = _jacobsthal(field)
    identity = torch.eye(q + 1, dtype=torch.float64)
    if first:
        return core + identity
    off_diagonal = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    diagonal = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    return torch.kron(core, off_diagonal) + torch.kron(identity, diagonal)


def _prime_power(q: int) -> Field | None:
    """q (odd) as a power of a prime, or None."""
    if q < 3:
        return None
    prime = next((d for d in range(3, isqrt(q) + 1, 2) if q % d == 0), q)
    degree = 0
    while q % prime == 0:
        q //= prime
        degree += 1
    return Field(prime, degree) if q == 1 else None


def _jacobsthal(field: Field) -> Tensor:
    """Q (q, q) int64 with Q[a, b] = chi(a - b)."""
    digits = _digits(field)
    difference = torch.zeros(field.order, field.order, dtype=torch.int64)
    for i, column in enumerate(digits.T):
        difference += (column[:, None] - column[None, :]) % field.prime * field.prime**i
    return _quadratic_character(field)[difference]


def _quadratic_character(field: Field) -> Tensor:
    """chi (q,) int64: 0 at zero, 1 at the squares, -1 elsewhere."""
    # The polynomials modulo f are a field exactly when every non-zero element's square is non-zero and has just two
    # roots: for a reducible f, some square is 0 (a repeated factor) or 1 has more than two roots (distinct factors).
    digits = _digits(field)
    for modulus in digits:
        squares = _squares(digits, modulus, field.prime)[1:].unique()
        if len(squares) == field.order // 2 and squares[0] != 0:
            chi = torch.full((field.order,), -1, dtype=torch.int64)
            chi[squares] = 1
            chi[0] = 0
            return chi
    raise AssertionError("an irreducible polynomial exists for every prime and degree")


def _digits(field: Field) -> Tensor:
    """Coefficients (q, degree) int64 of all elements, lowest power first."""
    powers = field.prime ** torch.arange(field.degree)
    return torch.arange(field.order)[:, None] // powers % field.prime


def _squares(digits: Tensor, modulus: Tensor, prime: int) -> Tensor:
    """The number (q,) of each element's square modulo the monic polynomial with the lower coefficients `modulus`."""
    degree = len(modulus)
    product = torch.zeros(len(digits), 2 * degree - 1, dtype=torch.int64)
    for i in range(degree):
        product[:, i : i + degree] += digits[:, i : i + 1] * digits
    for top in range(2 * degree - 2, degree - 1, -1):
        product[:, top - degree : top] -= product[:, top : top + 1] % prime * modulus
    return (product[:, :degree] % prime * prime ** torch.arange(degree)).sum(1)
