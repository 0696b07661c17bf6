"""The learner's compiled core: what a row holds, the experts, and one event's way through them.

The model is a factorization machine (Rendle 2010) over hashed rows whose every parameter carries its variance and
learns by a diagonal extended Kalman filter, which is online natural gradient (Ollivier 2018). For a parameter t with
variance v, derivative a = dz/dt, loss gradient g and curvature h at the score z, and s = sum v a^2:

    f = 1 / (1 + h s)        t -= v a g f        v -= v^2 a^2 h f

`model.reference` is the same model in plain torch; a test holds one step of this kernel to it.

An event's way, in `stream`:

    activation -> scoring -> mixture -> losses: the prediction        reads only
    steps -> losses, calibration, mixture: what is learned from it    writes, all or nothing

    trees                asked by the mixture; window and growth teach them
    experts              how many there are, and what sets them apart
    rows, slots          what is remembered of a row, and beside the rows
    aging                what passing events do to that
    losses               whatever depends on the task; nothing else knows which one it is
    addresses            where the memory lies that all of these share
    vectors, scalars     what they compute with

Stages of an event are inlined and take memory by address: Numba counts references of arrays, atomically, and passes
vectors through memory.
"""
