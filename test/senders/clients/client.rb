# Ruby's Net::HTTP, with the proxy of the environment. Arguments: the plan and the file of the CA.
require "net/http"

plan, ca = ARGV

def show(id, kind, text)
  puts ["Ruby Net::HTTP", id, kind, text.to_s.split.join(" ")].join("\t")
end

show("-", "version", RUBY_VERSION)
File.foreach(plan) do |line|
  id, url, size = line.split
  uri = URI(url)
  begin
    http = Net::HTTP.new(uri.hostname, uri.port)
    http.use_ssl = uri.scheme == "https"
    http.ca_file = ca
    http.open_timeout = http.read_timeout = http.write_timeout = 20
    response = http.start { http.post(uri.path, "x" * size.to_i) }
    show(id, "status", response.code)
    show(id, "phrase", response.message)
    show(id, "field", response["X-Outrider-Error"])
    show(id, "body", response.body)
  rescue StandardError => e
    show(id, "error", "#{e.class}: #{e.message}")
  end
end
