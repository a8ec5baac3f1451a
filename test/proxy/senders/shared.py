"""Requests for several hosts over one connection to the proxy: by `requests`, or by what it is built on."""
import http.client
import sys
from urllib.parse import urlsplit

library, proxy, *urls = sys.argv[1:]
if library == "requests":
    import requests

    with requests.Session() as session:
        session.trust_env = False
        session.proxies = {"http": proxy}
        for url in urls:
            response = session.get(url, timeout=10)
            print(response.status_code, response.text.strip())
else:
    connection = http.client.HTTPConnection(urlsplit(proxy).netloc, timeout=10)
    for url in urls:
        connection.request("GET", url)
        response = connection.getresponse()
        print(response.status, response.read().decode().strip())
