"""interceptor: a transparent interception gateway for an app that knows nothing of it.

Rules bring connections, a connection is decided once from plain data, then bytes move as fast as the kernel can,
and everything that was decided can be explained.

The map (each package is pure, or does I/O; imports go one way, top to bottom; ``lint-imports`` proves it)::

    cli         sidecar-setup and interceptor: parse, call, print, exit code
    launch      interceptor run: rules, proxy, proof and app together
    runtime     composition root: settings -> services, one nursery, signals, drain
    workers     what serves connections: one worker in the main process, or a supervisor of several processes
    proxy       listener -> connection (THE path; waiting: what needs a task) -> hub; tracker of live flows; http: machines that the hub drives
    discovery   sources of configuration: files, pushes and names, judged in a process beside; the only writers of the store
    admin       the admin and telemetry endpoints, and the one for pushes from other machines
    middleware  what stands around requests and connections: built-in filters, the user's own, the chain
    telemetry   metrics, access log, program log
    tls         certificates of files or a SPIFFE agent, TLS contexts and their rotation, TLS streams, the small authority
    kernel      namespaces, iptables, nftables, sockets, OpenSSL's settings: the only home of iptc, pyroute2, ctypes, setns
    watching    what files look like from outside, to see that they changed
    state       snapshot (PURE): one immutable version of everything configured; store: current, publish
    redirect    PURE: settings -> Ruleset -> diff, explain, renderings
    protocol    PURE, sans-IO: detection, ClientHello, HTTP
    policy      PURE: from facts and the time to a verdict: mutual TLS, authorization, tokens, rate limits
    routing     PURE: original destination -> decision; requests -> route, cluster, endpoint, another attempt
    config      PURE: documents -> typed settings, all problems at once, with file and line
    model       PURE: addresses, identities, directions, flows, response flags, HTTP heads
    errors      what an operator reads when something is wrong

Glossary (one word per concept; Envoy's, Istio's or the kernel's):

    app                   the unmodified program whose connections are intercepted
    access log            one line per connection, written at its end
    backend               which rules of the kernel ours are: iptables' legacy tables or nftables; its driver writes them
    attempt               a request on its way to one endpoint of a cluster; another one may follow
    authorizer            the policies about one workload or destination, compiled: facts in, verdict out
    bridge                a client's HTTP/2 connection and the upstream's for it, joined stream by stream
    bulk                  a source that fills a message's buffer: it is spliced from then on
    call                  a request on a bridge and its response
    capture               bring a connection to the proxy by a redirect rule
    cluster               the endpoints of a service's port, or of a subset of them, and how one of them is chosen
    course                where documents bring a flow that is relayed as it is: its cluster, and the endpoint that takes it
    detection             finding out what a client speaks from its first bytes, where no document says it
    direct                not captured: the connection goes where its sender sent it
    direction             ingress (a peer connects to the app) or egress (the app connects out)
    document              one YAML mapping with apiVersion and kind
    diversion             a call on a bridge whose two streams are parted: the user's own middleware stands between
    downstream            what faces the client of an exchange: an HTTP/1 connection, a stream of an HTTP/2 one
    exchange              one request and its response on their way; at its end the record of both
    exempt                excluded from capture by a uid, gid, mark, port, CIDR or interface
    flow                  one intercepted connection: the peer's side and the upstream side
    filter                built-in middleware: synchronous, without I/O
    foreign rule          a rule in the kernel that is not ours
    head                  start line and headers of a request or a response
    half                  one socket of HTTP: the client's, or the upstream's
    hub                   the one epoll loop that relays the bytes of all flows
    identity              who a workload is by its certificate: a SPIFFE id of trust domain, namespace, service account
    leg                   one of the two connections of a bridge
    listener              a socket of ours that accepts: ingress 15006, egress 15001
    local reply           a response of ours in the upstream's place
    middleware            what stands around requests or connections in ``spec.middleware``: filters, and the user's own
    namespace (netns)     a network namespace, by name, path or pid
    opaque                relayed as it is: no protocol that we understand
    original destination  where the peer meant to connect, before a rule redirected it
    peer                  who opened the connection we accepted
    pool                  connections to upstreams that wait for another exchange
    plan                  the Ruleset that settings ask for
    proxy ids             the uids, gids and mark by which the rules know the proxy's own traffic
    registry              the services named by ServiceEntry documents
    prober                what makes active health checks, for all workers; the board has which endpoints are unhealthy
    pushed set            the documents that came by push; files are the base below them
    relay                 moving bytes between the two sides of a flow, and the way it is done: copy or splice
    response flag         Envoy's short code for how a flow ended; ``-`` when nothing was wrong
    ruleset               all our rules, typed, for both families: the only source of every rendering
    secret                a certificate, key or trust bundle that a control plane gives: a file in memory, ``sds://NAME/tls.crt``
    snapshot              one immutable version of everything decided by configuration
    verdict               what policies decide over a connection or request, and which one did
    trunk                 a connection of HTTP/2 to an upstream, for the requests of many clients
    trust bundle          the authorities whose certificates are believed
    starter               the small process that forks workers and keeps their listeners
    supervisor            the main process where there are several workers: it decides and answers, and serves no flow
    upstream              the address we dial for a flow
    work                  what may be done in turns: it stops between two steps, and the data path has its turn
    worker                what accepts and relays: the main process itself, or one of several processes
"""

from __future__ import annotations
