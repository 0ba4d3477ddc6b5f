"""Published models behind HTTP: ``retrainer serve``. Needs the extra ``server``.

One process answers for several models, each of which is swapped when its channel moves.

=================  ==================================================================================
``settings``       what is served, where, within which limits
``server``         the process: socket, start, signals, drain, end
``connections``    one connection: timeouts of slow clients, size of headers
``application``    the routes; ``predict`` the one that is called often, ``requests`` its body
``models``         each model: loading in the background, readiness
``batcher``        concurrent requests of a model, merged into runs; ``turns`` their queue
``documents``      the OpenAPI document and its page
``problems``       errors as RFC 9457 problem details
``metrics``        for Prometheus
``tokens``         who may ask
``listener``       the socket; ``log_lines`` the log
=================  ==================================================================================

Nothing of ``retrainer.serve`` imports this package, so that the client needs none of its libraries.
"""
