{{/*
Sets missing values to their defaults: those of keys that are null, and with `--reuse-values` those of keys that the former
version of the chart did not have. Every template starts with it. files/defaults.yaml has the defaults by their path.
*/}}
{{- define "outrider.defaults" -}}
{{- range $path, $json := .Files.Get "files/defaults.yaml" | fromYaml }}
{{- $default := (fromJson $json).value }}
{{- $keys := splitList "." $path }}
{{- $map := $.Values }}
{{- range initial $keys }}
{{- if not (kindIs "map" (index $map .)) }}{{ $_ := set $map . dict }}{{ end }}
{{- $map = index $map . }}
{{- end }}
{{- if kindIs "invalid" (index $map (last $keys)) }}{{ $_ := set $map (last $keys) $default }}{{ end }}
{{- end }}
{{- end }}

{{- define "outrider.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/*
At most 40 characters, since suffixes have to fit into 63. A hash keeps longer names different. Without dots, which names of
releases may have and names of Services may not.
*/}}
{{- define "outrider.fullname" -}}
{{- $name := include "outrider.name" . }}
{{- $full := printf "%s-%s" .Release.Name $name }}
{{- if .Values.fullnameOverride }}{{ $full = .Values.fullnameOverride }}
{{- else if contains $name .Release.Name }}{{ $full = .Release.Name }}
{{- end }}
{{- if gt (len $full) 40 }}{{ $full = printf "%s-%s" (trunc 31 $full | trimSuffix "-") (sha256sum $full | trunc 8) }}{{ end }}
{{- $full | replace "." "-" }}
{{- end }}

{{- define "outrider.operator" -}}{{ include "outrider.fullname" . }}-operator{{- end }}
{{- define "outrider.webhook" -}}{{ include "outrider.fullname" . }}-webhook{{- end }}
{{- define "outrider.metrics" -}}{{ include "outrider.fullname" . }}-metrics{{- end }}

{{- define "outrider.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "outrider.operator" .) .Values.serviceAccount.name }}
{{- else }}{{ required "serviceAccount.name is required where serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Without a version, since selectors must never change. */}}
{{- define "outrider.selectorLabels" -}}
app.kubernetes.io/name: {{ include "outrider.name" . }}-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "outrider.labels" -}}
{{ include "outrider.selectorLabels" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: outrider
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The same with own labels, which have precedence: dict "root" $ "labels" MAP */}}
{{- define "outrider.labelsWith" -}}
{{- toYaml (merge (dict) (default dict .labels) (include "outrider.labels" .root | fromYaml)) }}
{{- end }}

{{/* Pods without the sidecar of a service mesh (docs/mesh.md): it would come between the API server and the webhook, and keep jobs running. */}}
{{- define "outrider.noMeshLabels" -}}
sidecar.istio.io/inject: "false"
istio.io/dataplane-mode: none
kuma.io/sidecar-injection: disabled
{{- end }}

{{- define "outrider.noMeshAnnotations" -}}
linkerd.io/inject: disabled
consul.hashicorp.com/connect-inject: "false"
dapr.io/enabled: "false"
{{- end }}

{{- define "outrider.podLabels" -}}
{{- $own := include "outrider.selectorLabels" . | fromYaml }}
{{- $mesh := include "outrider.noMeshLabels" . | fromYaml }}
{{- toYaml (merge $own (default dict .Values.podLabels) (default dict .Values.commonLabels) $mesh) }}
{{- end }}

{{- define "outrider.podAnnotations" -}}
{{- $mesh := include "outrider.noMeshAnnotations" . | fromYaml }}
{{- $fixed := dict }}
{{- if .Values.grants }}
{{- /* A change of the grants restarts the pods, since the operator reads them at its start. */}}
{{- $fixed = dict "checksum/grants" (toYaml .Values.grants | sha256sum) }}
{{- end }}
{{- $tools := dict "kubectl.kubernetes.io/default-container" "operator" }}
{{- toYaml (merge $fixed (default dict .Values.podAnnotations) $tools $mesh) }}
{{- end }}

{{/*
Spread by affinity, as the proxies: a topology spread constraint by zone would exclude nodes without zone labels from the scores.
*/}}
{{- define "outrider.affinity" -}}
{{- with .Values.affinity }}
{{- toYaml . }}
{{ end }}
{{- if not (hasKey (default dict .Values.affinity) "podAntiAffinity") -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    {{- range $key, $weight := dict "kubernetes.io/hostname" 100 "topology.kubernetes.io/zone" 50 }}
    - weight: {{ $weight }}
      podAffinityTerm:
        topologyKey: {{ $key }}
        labelSelector:
          matchLabels:
            {{- include "outrider.selectorLabels" $ | nindent 12 }}
        matchLabelKeys: [pod-template-hash]
    {{- end }}
{{- end }}
{{- end }}

{{- define "outrider.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else }}{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}

{{/* The mounted Secret with the webhook's certificate; empty if the operator creates its own. */}}
{{- define "outrider.webhookSecret" -}}
{{- with .Values.webhook.certificates }}
{{- if eq .source "CertManager" }}{{ include "outrider.webhook" $ }}-tls
{{- else if eq .source "Secret" }}{{ required "webhook.certificates.secretName is required where the source is Secret" .secretName }}
{{- end }}
{{- end }}
{{- end }}

{{/* Errors that a schema cannot detect. */}}
{{- define "outrider.check" -}}
{{- range $provider, $value := dict "KubeVIP" "kubeVIP" "NodeAddress" "nodeAddress" }}
{{- $enabled := (index $.Values.providers $value).enabled }}
{{- range $i, $grant := $.Values.grants }}
{{- if and (has $provider $grant.providers) (not $enabled) }}
{{- fail (printf "grants[%d].providers has %s, which is off: set providers.%s.enabled" $i $provider $value) }}
{{- end }}
{{- end }}
{{- if and $enabled (not $.Values.discoverCIDRs) }}
{{- fail (printf "providers.%s.enabled needs discoverCIDRs: the operator has to know which nodes can run a proxy" $value) }}
{{- end }}
{{- end }}
{{- if .Values.webhook.enabled }}
{{- range .Values.namespaces }}
{{- if eq . $.Release.Namespace }}
{{- fail (printf "namespaces has %s, the release's own, where no pod is injected: install the release into a namespace of its own" .) }}
{{- end }}
{{- if has . $.Values.webhook.excludedNamespaces }}
{{- fail (printf "namespaces has %s, where no pod is injected: remove it from webhook.excludedNamespaces, or from namespaces" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- include "outrider.checkPorts" . }}
{{- end }}

{{/* Ports of the operator, which have to be free on nodes with hostNetwork. */}}
{{- define "outrider.checkPorts" -}}
{{- $ports := dict "metrics.port" .Values.metrics.port "health.port" .Values.health.port }}
{{- if .Values.webhook.enabled }}{{ $_ := set $ports "webhook.port" .Values.webhook.port }}{{ end }}
{{- if .Values.page.enabled }}{{ $_ := set $ports "page.port" .Values.page.port }}{{ end }}
{{- $used := dict }}
{{- range $key, $port := $ports }}
{{- $text := int $port | toString }}
{{- with index $used $text }}{{ fail (printf "%s and %s are both %s: set different ports" . $key $text) }}{{ end }}
{{- $_ := set $used $text $key }}
{{- if and $.Values.hostNetwork (has $text (list "10248" "10249" "10250" "10256")) }}
{{- fail (printf "%s %s belongs to the kubelet or kube-proxy on nodes: set another one with hostNetwork, such as 10260" $key $text) }}
{{- end }}
{{- end }}
{{- if .Values.hostNetwork }}
{{- if .Values.page.enabled }}
{{- fail "page.enabled is not possible with hostNetwork: every program of the node could read the page. Set page.enabled to false" }}
{{- end }}
{{- if ne .Values.scrape "apiserver" }}
{{- fail "hostNetwork needs scrape=apiserver: NetworkPolicies of proxies cannot select pods on the networks of nodes" }}
{{- end }}
{{- if .Values.networkPolicy.enabled }}
{{- fail "networkPolicy.enabled has no effect with hostNetwork: set it to false, and limit the ports by the firewall of the nodes" }}
{{- end }}
{{- end }}
{{- end }}
