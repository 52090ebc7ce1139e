{{/* Metadata of a route of the Gateway API and what it is attached to, of (list root, its values). Knows
nothing of what is routed. */}}

{{- define "vintner.route" -}}
{{- $root := index . 0 -}}
{{- with index . 1 -}}
metadata:
  name: {{ include "vintner.fullname" $root | quote }}
  namespace: {{ $root.Release.Namespace | quote }}
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

{{/* "true" where both routes are attached to the same listener for the same hostname; no hostname is all of them. */}}
{{- define "vintner.routesMeet" -}}
{{- $http := .Values.httpRoute -}}
{{- $grpc := .Values.grpcRoute -}}
{{- $hosts := or (not $http.hostnames) (not $grpc.hostnames) -}}
{{- range $grpc.hostnames -}}
{{- $hosts = or $hosts (has . $http.hostnames) -}}
{{- end -}}
{{- range $grpc.parentRefs -}}
{{- if and $http.enabled $hosts (has . $http.parentRefs) }}true{{ end -}}
{{- end -}}
{{- end -}}
