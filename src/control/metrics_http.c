#include "control_int.h"

#include <stdlib.h>
#include <string.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <unistd.h>

/*
 * The only file that knows evhttp, behind fences: loopback TCP, GET, short
 * headers, no body, few connections, fixed paths.
 */
#define HEADERS_MAX 4096
#define TIMEOUT_S   5
#define CLIENTS_MAX 16
#define CHECK_MS    100

struct metrics_http {
	struct control *control;
	struct evhttp *http;
	struct evhttp_bound_socket *bound;
	struct addr addr;
	struct event *tick;
	/* A reference each, so that the end of a connection can be seen. */
	struct bufferevent *clients[CLIENTS_MAX];
	size_t n_clients;
};

static void
reply(struct evhttp_request *req, int code, const char *type,
    const struct text *body)
{
	struct evbuffer *buf = evbuffer_new();
	struct evkeyvalq *headers = evhttp_request_get_output_headers(req);

	(void)evhttp_add_header(headers, "Content-Type", type);
	(void)evhttp_add_header(headers, "Connection", "close");
	(void)evhttp_add_header(headers, "X-Content-Type-Options", "nosniff");
	if (buf != NULL)
		(void)evbuffer_add(buf, body->data, body->len);
	evhttp_send_reply(req, code, code == 200 ? "OK" : "Unavailable", buf);
	if (buf != NULL)
		evbuffer_free(buf);
}

static void
on_metrics(struct evhttp_request *req, void *arg)
{
	struct metrics_http *h = arg;
	struct text t;

	text_init(&t);
	metrics_render(h->control, &t);
	reply(req, t.failed ? 503 : 200,
	    "text/plain; version=0.0.4; charset=utf-8", &t);
	text_fini(&t);
}

static void
on_livez(struct evhttp_request *req, void *arg)
{
	struct metrics_http *h = arg;
	bool live = control_workers_turn(h->control, 5000);
	struct text t;

	text_init(&t);
	text_add(&t, "%s\n", live ? "ok" : "a worker does not turn");
	reply(req, live ? 200 : 503, "text/plain; charset=utf-8", &t);
	text_fini(&t);
}

static void
on_readyz(struct evhttp_request *req, void *arg)
{
	struct metrics_http *h = arg;
	struct text t;
	bool ready;

	text_init(&t);
	ready = readyz_render(h->control, &t);
	reply(req, ready ? 200 : 503, "application/json", &t);
	text_fini(&t);
}

/* evhttp's own page would echo the address that was asked for. */
static void
on_other(struct evhttp_request *req, void *arg)
{
	(void)arg;
	evhttp_send_reply(req, HTTP_NOTFOUND, "Not Found", NULL);
}

/* evhttp has freed its half when the callbacks are gone. */
static bool
is_over(struct bufferevent *bev)
{
	bufferevent_data_cb r, w;
	bufferevent_event_cb e;
	void *arg;

	bufferevent_getcb(bev, &r, &w, &e, &arg);
	return r == NULL && w == NULL && e == NULL;
}

static void
drop_ended(struct metrics_http *h, bool all)
{
	bool was_full = h->n_clients == CLIENTS_MAX;

	for (size_t i = 0; i < h->n_clients;) {
		if (!all && !is_over(h->clients[i])) {
			i++;
			continue;
		}
		bufferevent_decref(h->clients[i]);
		h->clients[i] = h->clients[--h->n_clients];
	}
	if (was_full && h->n_clients < CLIENTS_MAX && !all)
		(void)evconnlistener_enable(
		    evhttp_bound_socket_get_listener(h->bound));
}

static void
on_check(evutil_socket_t fd, short what, void *arg)
{
	struct metrics_http *h = arg;

	(void)fd;
	(void)what;
	drop_ended(h, false);
	if (h->n_clients == 0)
		(void)event_del(h->tick);
}

static struct bufferevent *
on_new(struct event_base *base, void *arg)
{
	const struct timeval tv = {.tv_usec = CHECK_MS * 1000};
	struct metrics_http *h = arg;
	struct bufferevent *bev =
	    bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE);

	if (bev == NULL || h->n_clients == CLIENTS_MAX)
		return bev;
	bufferevent_incref(bev);
	h->clients[h->n_clients++] = bev;
	if (h->n_clients == 1)
		(void)event_add(h->tick, &tv);
	if (h->n_clients == CLIENTS_MAX)
		(void)evconnlistener_disable(
		    evhttp_bound_socket_get_listener(h->bound));
	return bev;
}

void
metrics_http_free(struct metrics_http **hp)
{
	struct metrics_http *h = *hp;

	if (h == NULL)
		return;
	drop_ended(h, true);
	if (h->http != NULL)
		evhttp_free(h->http);
	if (h->tick != NULL)
		event_free(h->tick);
	free(h);
	*hp = NULL;
}

static enum fault
bind_socket(struct metrics_http *h, struct why *why)
{
	const struct listen_args args = {.addr = h->addr, .side = SIDE_MESH};
	int fd;
	enum fault f = net_bind(&args, &fd, why);

	if (f == FAULT_NONE) {
		f = net_listen(fd, 64, why);
		if (f != FAULT_NONE)
			(void)close(fd);
	}
	if (f != FAULT_NONE)
		return f;
	h->bound = evhttp_accept_socket_with_handle(h->http, fd);
	if (h->bound == NULL) {
		(void)close(fd);
		return fail(why, FAULT_NOMEM, "metrics: out of memory");
	}
	return FAULT_NONE;
}

/* The address of now needs nothing new, and "off" no socket. */
enum fault
metrics_http_prepare(
    struct control *k, const struct addr *addr, struct why *why)
{
	struct metrics_http *h;
	enum fault f;

	if (addr->len == 0 ||
	    (k->http != NULL && addr_equal(&k->http->addr, addr)))
		return FAULT_NONE;
	h = calloc(1, sizeof(*h));
	if (h == NULL)
		return fail(why, FAULT_NOMEM, "metrics: out of memory");
	h->control = k;
	h->addr = *addr;
	h->http = evhttp_new(k->base);
	h->tick = event_new(k->base, -1, EV_PERSIST, on_check, h);
	if (h->http == NULL || h->tick == NULL) {
		metrics_http_free(&h);
		return fail(why, FAULT_NOMEM, "metrics: out of memory");
	}
	evhttp_set_allowed_methods(h->http, EVHTTP_REQ_GET);
	evhttp_set_max_headers_size(h->http, HEADERS_MAX);
	evhttp_set_max_body_size(h->http, 0);
	evhttp_set_timeout(h->http, TIMEOUT_S);
	evhttp_set_bevcb(h->http, on_new, h);
	(void)evhttp_set_cb(h->http, "/metrics", on_metrics, h);
	(void)evhttp_set_cb(h->http, "/livez", on_livez, h);
	(void)evhttp_set_cb(h->http, "/readyz", on_readyz, h);
	evhttp_set_gencb(h->http, on_other, h);
	f = bind_socket(h, why);
	if (f != FAULT_NONE) {
		metrics_http_free(&h);
		return f;
	}
	k->http_next = h;
	return FAULT_NONE;
}

void
metrics_http_commit(struct control *k, const struct addr *addr)
{
	if (k->http_next == NULL && addr->len != 0)
		return; /* kept */
	metrics_http_free(&k->http);
	k->http = k->http_next;
	k->http_next = NULL;
}
