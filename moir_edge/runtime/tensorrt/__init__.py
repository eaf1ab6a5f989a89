"""TensorRT's engines as a runtime: CUDA memory, engines, the key-value cache and `EngineSessions`; no torch.

Nothing here has been run on a GPU by this project: the tests execute the same code over a CPU double of CUDA and TensorRT.
"""
