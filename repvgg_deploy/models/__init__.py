"""RepVGG architectures: specs, the zoo, the torch module, and reading a spec off the shapes."""
