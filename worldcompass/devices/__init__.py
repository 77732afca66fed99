"""What CUDA would choose: types under autocast, kernels of attention; and a stand-in for it without a GPU."""
