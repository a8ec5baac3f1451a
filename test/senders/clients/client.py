"""Python clients, with the proxy of the environment. Arguments: the plan, the file of the CA, and the names of clients."""
import asyncio
import os
import platform
import ssl
import sys
import threading
import urllib.error
import urllib.request

plan, ca, *names = sys.argv[1:]
TIMEOUT = 20
# A certificate for the proxy.
CERTIFICATE = os.environ.get("CLIENT_CERT")


def trusting():
    context = ssl.create_default_context(cafile=ca)
    if CERTIFICATE:
        context.load_cert_chain(CERTIFICATE, os.environ["CLIENT_KEY"])
    return context


class Sender:
    """One client: its version, and a function that posts and calls `answer`."""

    def __init__(self, name):
        self.name = name

    def show(self, case, kind, text):
        sys.stdout.write("\t".join([self.name, case, kind, " ".join(str(text).split())]) + "\n")

    def answer(self, case, status, phrase, fields, body):
        self.show(case, "status", status)
        self.show(case, "phrase", phrase or "")
        self.show(case, "field", fields.get("X-Outrider-Error", ""))
        self.show(case, "body", body)


def urllib_client(sender):
    sender.show("-", "version", platform.python_version())
    context = trusting()
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))

    def post(case, url, data):
        try:
            with opener.open(urllib.request.Request(url, data=data), timeout=TIMEOUT) as response:
                sender.answer(case, response.status, response.reason, response.headers, response.read().decode())
        except urllib.error.HTTPError as error:
            sender.answer(case, error.code, error.reason, error.headers, error.read().decode())

    return post


def requests_client(sender):
    import requests

    sender.show("-", "version", requests.__version__)
    session = requests.Session()
    if CERTIFICATE:
        # `cert` of a session is for targets only.
        class Adapter(requests.adapters.HTTPAdapter):
            def proxy_manager_for(self, proxy, **options):
                return super().proxy_manager_for(proxy, proxy_ssl_context=trusting(), **options)

        session.mount("http://", Adapter())
        session.mount("https://", Adapter())

    def post(case, url, data):
        response = session.post(url, data=data, timeout=TIMEOUT, verify=ca)
        sender.answer(case, response.status_code, response.reason, response.headers, response.text)

    return post


def httpx_client(sender):
    import httpx

    sender.show("-", "version", httpx.__version__)
    own = {}
    if CERTIFICATE:
        own = {"proxy": httpx.Proxy(os.environ["HTTP_PROXY"], ssl_context=trusting())}
    client = httpx.Client(verify=trusting(), timeout=TIMEOUT, **own)

    def post(case, url, data):
        response = client.post(url, content=data)
        sender.answer(case, response.status_code, response.reason_phrase, response.headers, response.text)

    return post


def aiohttp_client(sender):
    import aiohttp

    sender.show("-", "version", aiohttp.__version__)
    context = trusting()
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)

    async def send(case, url, data):
        async with aiohttp.ClientSession(trust_env=True, timeout=timeout) as session:
            async with session.post(url, data=data, ssl=context) as response:
                sender.answer(case, response.status, response.reason, response.headers, await response.text())

    return lambda case, url, data: asyncio.run(send(case, url, data))


CLIENTS = {
    "Python urllib": urllib_client,
    "requests": requests_client,
    "httpx": httpx_client,
    "aiohttp": aiohttp_client,
}


def play(name):
    sender = Sender(name)
    post = CLIENTS[name](sender)
    for case, url, size in cases:
        try:
            post(case, url, b"x" * int(size))
        except Exception as error:
            sender.show(case, "error", f"{type(error).__name__}: {error}")


with open(plan, encoding="ascii") as lines:
    cases = [line.split() for line in lines]
threads = [threading.Thread(target=play, args=[name]) for name in names]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
