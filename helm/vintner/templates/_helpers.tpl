{{/* Names, labels and annotations that all objects share. Knows nothing of what the objects are.
Selector labels never change between two versions of the chart: selectors cannot be changed. */}}

{{- define "vintner.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 52 characters: a StatefulSet's controller adds 11 to it for a label, which may have 63. */}}
{{- define "vintner.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $both := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $both .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "vintner.selectorLabels" -}}
app.kubernetes.io/name: {{ include "vintner.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* Of an object: the chart's, commonLabels and further ones, as YAML; of a key given twice, the former of these.
Give it the root, or (list . .Values.some.labels ...). */}}
{{- define "vintner.labels" -}}
{{- $given := ternary . (list .) (kindIs "slice" .) -}}
{{- $root := first $given -}}
{{- $labels := fromYaml (include "vintner.selectorLabels" $root) -}}
{{- $_ := set $labels "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $_ := set $labels "app.kubernetes.io/version" ($root.Chart.AppVersion | replace "+" "_" | trunc 63) -}}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63) -}}
{{- range rest $given -}}
{{- $labels = merge $labels (default dict .) -}}
{{- end -}}
{{- toYaml (merge $labels (default dict $root.Values.commonLabels)) -}}
{{- end -}}

{{/* Of pods that are not the server's, so that no Service and no Deployment takes them for it; a NetworkPolicy that
lets only some in has to let these in. */}}
{{- define "vintner.testLabels" -}}
app.kubernetes.io/name: {{ printf "%s-test" (include "vintner.name" .) | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* Of an object, as YAML; nothing if there are none. Give it the root, or (list . .Values.some.annotations ...):
    {{- with include "vintner.annotations" (list . .Values.service.annotations) }}
    annotations: {{- . | nindent 4 }}
    {{- end }}
*/}}
{{- define "vintner.annotations" -}}
{{- $given := ternary . (list .) (kindIs "slice" .) -}}
{{- $annotations := dict -}}
{{- range append (rest $given) (first $given).Values.commonAnnotations -}}
{{- range $key, $value := default dict . -}}
{{- /* Not merge, to which an empty text is none. */ -}}
{{- if not (hasKey $annotations $key) -}}
{{- $_ := set $annotations $key $value -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with $annotations -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{- define "vintner.serviceAccountName" -}}
{{- default (ternary (include "vintner.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "vintner.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (toString (default $.Chart.AppVersion .tag)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "vintner.headlessName" -}}
{{- printf "%s-headless" (include "vintner.fullname" .) -}}
{{- end -}}

{{/* "true" where something else says how many pods there are. */}}
{{- define "vintner.autoscaled" -}}
{{- if or .Values.autoscaling.enabled .Values.keda.enabled }}true{{ end -}}
{{- end -}}
