{{/* The pod, the same for Deployment and StatefulSet. Knows nothing of how many there are. A change of the server's
configuration changes an annotation, and so rolls the pods. */}}

{{- define "vintner.podAnnotations" -}}
{{- $own := dict "checksum/config" (include "vintner.options" . | sha256sum) -}}
{{- if .Values.metrics.scrapeAnnotations -}}
{{- $_ := set $own "prometheus.io/scrape" "true" -}}
{{- $_ := set $own "prometheus.io/port" (toString .Values.server.ports.metrics) -}}
{{- $_ := set $own "prometheus.io/path" "/metrics" -}}
{{- end -}}
{{- include "vintner.annotations" (list . $own .Values.podAnnotations) -}}
{{- end -}}

{{/* Without the version of the chart, which alone is no reason to roll the pods. */}}
{{- define "vintner.podLabels" -}}
{{- $labels := fromYaml (include "vintner.selectorLabels" .) -}}
{{- toYaml (merge $labels (default dict .Values.podLabels) (default dict .Values.commonLabels)) -}}
{{- end -}}

{{- define "vintner.podSecurityContext" -}}
{{- $context := deepCopy (default dict .Values.podSecurityContext) -}}
{{- with .Values.devices.supplementalGroups -}}
{{- $_ := set $context "supplementalGroups" (concat (default list $context.supplementalGroups) . | uniq) -}}
{{- end -}}
{{- with $context -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{/* Devices are limits; Kubernetes takes the same for requests. */}}
{{- define "vintner.resources" -}}
{{- $resources := deepCopy (default dict .Values.resources) -}}
{{- $limits := default dict $resources.limits -}}
{{- range tuple .Values.devices.gpu .Values.devices.npu -}}
{{- if gt (int .count) 0 -}}
{{- $_ := set $limits .resource (int .count) -}}
{{- end -}}
{{- end -}}
{{- if $limits -}}
{{- $_ := set $resources "limits" $limits -}}
{{- end -}}
{{- with $resources -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{- define "vintner.topologySpread" -}}
{{- if .Values.topologySpreadConstraints -}}
{{- toYaml .Values.topologySpreadConstraints -}}
{{- else -}}
{{- range tuple "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- topologyKey: {{ . }}
  maxSkew: 1
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "vintner.selectorLabels" $ | nindent 6 }}
  matchLabelKeys:
    - {{ ternary "controller-revision-hash" "pod-template-hash" (eq $.Values.kind "StatefulSet") }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* Copies models before the server starts; the tool finds the directory to fill in MODEL_REPOSITORY. */}}
{{- define "vintner.copyContainer" -}}
{{- $copy := .Values.modelRepository.copy -}}
name: copy-models
image: {{ $copy.image | quote }}
imagePullPolicy: {{ $copy.pullPolicy }}
{{- with $copy.command }}
command: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $copy.args }}
args: {{- toYaml . | nindent 2 }}
{{- end }}
env:
  - name: MODEL_REPOSITORY
    value: {{ .Values.modelRepository.mountPath | quote }}
  {{- with $copy.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $copy.envFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $copy.resources }}
resources: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.securityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  - name: models
    mountPath: {{ .Values.modelRepository.mountPath | quote }}
  - name: tmp
    mountPath: /tmp
{{- end -}}

{{- define "vintner.serverContainer" -}}
name: vintner
image: {{ include "vintner.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args:
  - serve
  - --config=/etc/vintner/config.yaml
  {{- with .Values.server.extraArgs }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  {{- range $name := tuple "http" "grpc" "metrics" }}
  - name: {{ $name }}
    containerPort: {{ get $.Values.server.ports $name }}
    protocol: TCP
  {{- end }}
{{- with .Values.env }}
env: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.envFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
{{- include "vintner.probes" . }}
{{- with include "vintner.resources" . }}
resources: {{- . | nindent 2 }}
{{- end }}
{{- with .Values.securityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts: {{- include "vintner.volumeMounts" . | nindent 2 }}
{{- end -}}

{{- define "vintner.scheduling" -}}
{{- range $key := tuple "nodeSelector" "tolerations" "affinity" }}
{{- with get $.Values $key }}
{{ $key }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- range $key := tuple "priorityClassName" "runtimeClassName" }}
{{- with get $.Values $key }}
{{ $key }}: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "vintner.pod" -}}
{{- include "vintner.checks" . -}}
metadata:
  labels: {{- include "vintner.podLabels" . | nindent 4 }}
  annotations: {{- include "vintner.podAnnotations" . | nindent 4 }}
spec:
  serviceAccountName: {{ include "vintner.serviceAccountName" . | quote }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "vintner.gracePeriod" . }}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "vintner.podSecurityContext" . }}
  securityContext: {{- . | nindent 4 }}
  {{- end }}
  {{- if or (eq .Values.modelRepository.type "copy") .Values.initContainers }}
  initContainers:
    {{- if eq .Values.modelRepository.type "copy" }}
    - {{ include "vintner.copyContainer" . | indent 6 | trim }}
    {{- end }}
    {{- with .Values.initContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
  containers:
    - {{ include "vintner.serverContainer" . | indent 6 | trim }}
    {{- with .Values.sidecars }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes: {{- include "vintner.volumes" . | nindent 4 }}
  {{- with include "vintner.scheduling" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  topologySpreadConstraints: {{- include "vintner.topologySpread" . | trim | nindent 4 }}
{{- end -}}
