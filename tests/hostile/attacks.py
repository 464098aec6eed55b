"""All hostile programs that a sandbox is tested with."""

from hostile.attack import Attack
from hostile.exhaustion import EXHAUSTION
from hostile.leaving import LEAVING
from hostile.reaching import REACHING

ALL: tuple[Attack, ...] = (*EXHAUSTION, *REACHING, *LEAVING)
