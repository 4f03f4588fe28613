"""Every direct edge of a model: exact effects, attribution, discovery, quality of circuits."""
