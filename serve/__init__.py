"""The service on Ray Serve; imported as a package, from the project's folder."""
