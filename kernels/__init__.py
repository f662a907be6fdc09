"""How a policy is sampled: the interface (`backend`), its definition (`reference`), the noise (`philox`)."""
