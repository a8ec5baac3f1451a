{{/* Labels of the objects of a hook, which no selector of the release matches: dict "root" $ "name" NAME */}}
{{- define "outrider.hookLabels" -}}
app.kubernetes.io/name: {{ include "outrider.name" .root }}-{{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service | quote }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels of the pod of a hook. Without a sidecar, even if commonLabels wants one: it would keep the Job running. */}}
{{- define "outrider.hookPodLabels" -}}
{{- toYaml (merge (include "outrider.noMeshLabels" .root | fromYaml) (include "outrider.hookLabels" . | fromYaml)) }}
{{- end }}

{{/* Annotations of an object of a hook: dict "hook" HOOK "weight" WEIGHT */}}
{{- define "outrider.hookAnnotations" -}}
helm.sh/hook: {{ .hook }}
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{/* Fields of the pod of a hook. */}}
{{- define "outrider.hookPod" -}}
restartPolicy: Never
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true # as the image's user, or as one that OpenShift chooses
  seccompProfile: { type: RuntimeDefault }
{{- end }}

{{/* Fields of the container of a hook. */}}
{{- define "outrider.hookContainer" -}}
image: {{ include "outrider.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [node, --input-type=module, --eval]
args:
  - |
    {{- .Files.Get "files/hooks.mjs" | trim | nindent 4 }}
resources:
  requests: { cpu: 50m, memory: 64Mi }
  limits: { memory: 128Mi }
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{- define "outrider.stopRules" -}}
- apiGroups: [apps]
  resources: [deployments]
  resourceNames: [{{ include "outrider.operator" . | quote }}]
  verbs: [get]
- apiGroups: [apps]
  resources: [deployments/scale]
  resourceNames: [{{ include "outrider.operator" . | quote }}]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
{{- end }}

{{- define "outrider.releaseRules" -}}
# Removes the operator's finalizer.
- apiGroups: [egress.outrider.dev]
  resources: [egresspolicies]
  verbs: [get, list, patch]
{{- end }}

{{- define "outrider.useRules" -}}
# The uninstall deletes the CRD, and with it the policies of all namespaces.
- apiGroups: [egress.outrider.dev]
  resources: [egresspolicies]
  verbs: [list]
{{- end }}

{{- define "outrider.probeRules" -}}
# The test creates a pod as a dry run, which is not stored. RBAC cannot restrict create to dry runs.
- apiGroups: [""]
  resources: [pods]
  verbs: [create]
{{- end }}

{{/* Namespace in which the webhook is called for a pod; empty if the chart knows none, or may create no role there. */}}
{{- define "outrider.probeNamespace" -}}
{{- $namespace := first (append .Values.namespaces "default") }}
{{- $excluded := append .Values.webhook.excludedNamespaces .Release.Namespace }}
{{- if and .Values.webhook.enabled .Values.rbac.create (not (has $namespace $excluded)) }}{{ $namespace }}{{ end }}
{{- end }}
