{{/* An Ingress, of {root, name, ingress: its values, port: the Service's, by name}. Knows nothing of the controllers:
what they need for gRPC and for long streams is in the annotations of the values. */}}

{{- define "vintner.ingress" -}}
{{- $root := .root -}}
{{- $port := .port -}}
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {{ .name | quote }}
  namespace: {{ $root.Release.Namespace | quote }}
  labels: {{- include "vintner.labels" $root | nindent 4 }}
  {{- with include "vintner.annotations" (list $root .ingress.annotations) }}
  annotations: {{- . | nindent 4 }}
  {{- end }}
spec:
  {{- with $root.Values.ingress.className }}
  ingressClassName: {{ . | quote }}
  {{- end }}
  rules:
    {{- range .ingress.hosts }}
    - host: {{ .host | quote }}
      http:
        paths:
          {{- range default (list (dict "path" "/")) .paths }}
          - path: {{ .path | quote }}
            pathType: {{ default "Prefix" .pathType }}
            backend:
              service:
                name: {{ include "vintner.fullname" $root | quote }}
                port:
                  name: {{ $port }}
          {{- end }}
    {{- end }}
  {{- with .ingress.tls }}
  tls: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
