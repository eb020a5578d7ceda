//! Nothing here: the tests of this package compare geb with other GGUF implementations.
