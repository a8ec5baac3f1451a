import java.io.InputStream;
import java.net.Authenticator;
import java.net.HttpURLConnection;
import java.net.PasswordAuthentication;
import java.net.ProxySelector;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/** The clients of the JDK, with the proxy of its system properties. Arguments: the plan, the file of the CA, user, password. */
public class Main {
    static final Duration TIMEOUT = Duration.ofSeconds(20);
    /** Whether the current request has got its credentials. Both clients would repeat a wrong password, up to 20 times. */
    static volatile boolean authenticated;

    interface Client {
        void post(String id, URI uri, byte[] body) throws Exception;
    }

    static void show(String client, String id, String kind, String text) {
        System.out.println(String.join("\t", client, id, kind, text == null ? "" : text.replaceAll("\\s+", " ").trim()));
    }

    static SSLContext trusting(Path ca) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (InputStream pem = Files.newInputStream(ca)) {
            store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        TrustManagerFactory managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        return context;
    }

    static Client httpClient(SSLContext context) {
        HttpClient client = HttpClient.newBuilder()
            .version(HttpClient.Version.HTTP_1_1)
            .proxy(ProxySelector.getDefault())
            .authenticator(Authenticator.getDefault())
            .sslContext(context)
            .build();
        return (id, uri, body) -> {
            HttpRequest request = HttpRequest.newBuilder(uri).timeout(TIMEOUT)
                .POST(HttpRequest.BodyPublishers.ofByteArray(body)).build();
            HttpResponse<String> response = client.send(request, HttpResponse.BodyHandlers.ofString());
            String name = "Java HttpClient";
            show(name, id, "status", String.valueOf(response.statusCode()));
            show(name, id, "field", response.headers().firstValue("X-Outrider-Error").orElse(""));
            show(name, id, "body", response.body());
        };
    }

    static Client urlConnection(SSLContext context) {
        HttpsURLConnection.setDefaultSSLSocketFactory(context.getSocketFactory());
        return (id, uri, body) -> {
            HttpURLConnection connection = (HttpURLConnection) uri.toURL().openConnection();
            connection.setConnectTimeout((int) TIMEOUT.toMillis());
            connection.setReadTimeout((int) TIMEOUT.toMillis());
            connection.setRequestMethod("POST");
            connection.setDoOutput(true);
            connection.getOutputStream().write(body);
            String name = "Java HttpURLConnection";
            int status = connection.getResponseCode();
            String text;
            try (InputStream in = status < 400 ? connection.getInputStream() : connection.getErrorStream()) {
                text = in == null ? "" : new String(in.readAllBytes(), StandardCharsets.UTF_8);
            }
            show(name, id, "status", String.valueOf(status));
            show(name, id, "phrase", connection.getResponseMessage());
            show(name, id, "field", connection.getHeaderField("X-Outrider-Error"));
            show(name, id, "body", text);
        };
    }

    static void run(String name, Client client, Path plan) throws Exception {
        show(name, "-", "version", Runtime.version().feature() + "");
        for (String line : Files.readAllLines(plan)) {
            String[] part = line.split(" ");
            try {
                authenticated = false;
                client.post(part[0], URI.create(part[1]), "x".repeat(Integer.parseInt(part[2])).getBytes(StandardCharsets.US_ASCII));
            } catch (Exception error) {
                String text = error.toString();
                for (Throwable cause = error.getCause(); cause != null; cause = cause.getCause()) {
                    if (!text.contains(cause.getMessage() + "")) text += ": " + cause.getMessage();
                }
                show(name, part[0], "error", text);
            }
        }
    }

    public static void main(String[] args) throws Exception {
        Path plan = Path.of(args[0]);
        SSLContext context = trusting(Path.of(args[1]));
        Authenticator.setDefault(new Authenticator() {
            @Override
            protected PasswordAuthentication getPasswordAuthentication() {
                if (authenticated) return null;
                authenticated = true;
                return new PasswordAuthentication(args[2], args[3].toCharArray());
            }
        });
        run("Java HttpClient", httpClient(context), plan);
        run("Java HttpURLConnection", urlConnection(context), plan);
        System.exit(0);
    }
}
