"""Checkpoints: the learner's whole state in one folder that is either complete or not there.

    <directory>/
        <events, 15 digits>-<counter, 6 digits>/     a checkpoint; the highest counter is the newest
            model.safetensors                        every tensor (`tensors`)
            manifest.json                            everything else, and the SHA-256 of both files (`manifest`)
        <the same>.damaged/                          one that failed its check, set aside on loading
        .saving-<the same>/  .removing-<the same>/   work under way, or left by a killed save

`store` saves them and finds the newest; docs/checkpoints.md has the format byte by byte.
"""
