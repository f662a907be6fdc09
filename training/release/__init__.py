"""Files that others made or will use.

`export` is `sorl-export`: a policy with its measurements inside and a model card (`card`) beside it, read back and
compared (`readback`). `import_released` is `sorl-import`: a checkpoint of the released SORL code, read by
`array_pickle`, which runs nothing in it, and renamed by `released`. `parity` is `sorl-parity`: this code against
figures of the released code in a `parity_file`.

The modules are commands and their parts; no other room imports from here.
"""
