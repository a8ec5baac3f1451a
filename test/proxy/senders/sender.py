"""A sender on Python's standard library; the proxy comes from the environment."""
import ssl
import sys
import urllib.error
import urllib.request

context = ssl.create_default_context(cafile=sys.argv[2])
opener = urllib.request.build_opener(urllib.request.ProxyHandler(), urllib.request.HTTPSHandler(context=context))
try:
    with opener.open(urllib.request.Request(sys.argv[1], data=b'{"event":"paid"}'), timeout=10) as response:
        print(response.status, response.reason)
        print(response.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.reason)
    sys.exit(1)
except urllib.error.URLError as error:
    print(repr(error.reason))
    sys.exit(1)
