{{/* Metadata of a route of the Gateway API and what it is attached to, of (list root, its values, their key). Knows
nothing of what is routed. */}}

{{- define "vintner.route" -}}
{{- $root := index . 0 -}}
{{- $key := index . 2 -}}
{{- with index . 1 -}}
{{- if not .parentRefs -}}
{{- fail (printf "%s.parentRefs: expected at least one gateway, such as [{name: gateway, namespace: gateways}]" $key) -}}
{{- end -}}
metadata:
  name: {{ include "vintner.fullname" $root }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "vintner.labels" $root | nindent 4 }}
  {{- with include "vintner.annotations" (list $root .annotations) }}
  annotations: {{- . | nindent 4 }}
  {{- end }}
spec:
  parentRefs: {{- toYaml .parentRefs | nindent 4 }}
  {{- with .hostnames }}
  hostnames: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end -}}
