"""Training of CycleReg's registration networks; :mod:`CycleRegLib` is what it trains and how it is used afterwards."""
