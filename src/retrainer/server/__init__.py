"""Published models behind HTTP: ``retrainer serve``. Needs the extra ``server``.

One process answers for several models, each of which is swapped when its channel moves.

===============  ====================================================================================
``settings``     what is served, where, within which limits
``server``       the process: socket, start, signals, drain, end
``application``  what can be asked; ``operations`` what each of it is, as a route and in the API's documents
``asking``       what is asked of a model; ``bodies`` what requests and answers look like
``predict``      labels; ``generate`` text, whole or as a stream
``models``       each model: loading in the background, readiness
``batcher``      concurrent requests of a classifier, merged into runs; ``turns`` their queue
``lanes``        concurrent requests of a model that writes text, side by side
``problems``     errors as RFC 9457 problem details
``metrics``      for Prometheus
``tokens``       who may ask
``log_lines``    the log
===============  ====================================================================================

Not here: TLS, slow clients, endless headers. They belong to a proxy (``docs/nginx.conf``). Nothing of
``retrainer.serve`` imports this package, so that the client needs none of its libraries.
"""
