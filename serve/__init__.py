"""The HTTP service on Ray Serve: z-scored voxels in; embeddings, gallery matches and pictures out.

Start with app.py, which wires the deployments. gateway.py has the routes, guard.py the checks
before them, bodies.py the parsing of voxels; retriever.py and drawer.py compute the answers,
without Ray or HTTP. settings.py lists every setting, schema.py every request and answer; client.py
calls the service from Python.
"""
