{{/* Volumes of a pod and where its server mounts them. Knows nothing of what is in them. What a server mounts of models
is read-only. */}}

{{/* Whether a volume is each replica's own, made from a template of the StatefulSet: (list . .Values.cache.type). */}}
{{- define "vintner.perReplica" -}}
{{- if and (eq (first .).Values.kind "StatefulSet") (eq (last .) "newClaim") }}true{{ end -}}
{{- end -}}

{{- define "vintner.claimName" -}}
{{- printf "%s-models" (include "vintner.fullname" .) -}}
{{- end -}}

{{/* Where the models come from, as a pod's volume without its name; nothing where the pod needs none. */}}
{{- define "vintner.modelSource" -}}
{{- $repository := .Values.modelRepository -}}
{{- if eq $repository.type "existingClaim" -}}
persistentVolumeClaim:
  claimName: {{ $repository.existingClaim.name | quote }}
  readOnly: true
{{- else if eq $repository.type "newClaim" -}}
persistentVolumeClaim:
  claimName: {{ include "vintner.claimName" . | quote }}
{{- else if eq $repository.type "volume" -}}
{{- toYaml $repository.volume -}}
{{- else if eq $repository.type "configMap" -}}
configMap:
  name: {{ $repository.configMap.name | quote }}
  {{- with $repository.configMap.items }}
  items: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- else if eq $repository.type "image" -}}
image:
  reference: {{ $repository.image.reference | quote }}
  pullPolicy: {{ $repository.image.pullPolicy }}
{{- else if eq $repository.type "copy" -}}
emptyDir: {{- toYaml (dict "sizeLimit" $repository.copy.sizeLimit) | nindent 2 }}
{{- end -}}
{{- end -}}

{{- define "vintner.cacheSource" -}}
{{- $cache := .Values.cache -}}
{{- if eq $cache.type "emptyDir" -}}
emptyDir: {{- toYaml (dict "sizeLimit" $cache.sizeLimit) | nindent 2 }}
{{- else if eq $cache.type "existingClaim" -}}
persistentVolumeClaim:
  claimName: {{ $cache.existingClaim | quote }}
{{- end -}}
{{- end -}}

{{- define "vintner.volumes" -}}
- name: config
  configMap:
    name: {{ include "vintner.fullname" . | quote }}
- name: tmp
  emptyDir: {{- toYaml (dict "sizeLimit" .Values.temporaryDirectory.sizeLimit) | nindent 4 }}
{{- if not (include "vintner.perReplica" (list . .Values.modelRepository.type)) }}
{{- with include "vintner.modelSource" . }}
- name: models
  {{- . | nindent 2 }}
{{- end }}
{{- end }}
{{- with include "vintner.cacheSource" . }}
- name: cache
  {{- . | nindent 2 }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "vintner.volumeMounts" -}}
- name: config
  mountPath: /etc/vintner
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- if ne .Values.modelRepository.type "bundled" }}
- name: models
  mountPath: {{ .Values.modelRepository.mountPath | quote }}
  readOnly: true
{{- end }}
{{- if ne .Values.cache.type "none" }}
- name: cache
  mountPath: {{ .Values.cache.mountPath | quote }}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of a claim's template cannot be changed, so it has those that stay: (list . NAME CLAIM). */}}
{{- define "vintner.claimTemplate" -}}
{{- $root := index . 0 -}}
{{- $claim := index . 2 -}}
- apiVersion: v1
  kind: PersistentVolumeClaim
  metadata:
    name: {{ index . 1 }}
    labels: {{- include "vintner.selectorLabels" $root | nindent 6 }}
    {{- with $claim.annotations }}
    annotations: {{- toYaml . | nindent 6 }}
    {{- end }}
  spec: {{- include "vintner.claimSpec" $claim | nindent 4 }}
{{- end -}}

{{- define "vintner.claimSpec" -}}
accessModes: {{- toYaml (default (list "ReadWriteOnce") .accessModes) | nindent 2 }}
{{- with .storageClass }}
storageClassName: {{ . | quote }}
{{- end }}
resources:
  requests:
    storage: {{ .size | quote }}
{{- end -}}
