{{- define "mrcelery.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Truncated to leave room for "-worker-" and a group's name. */}}
{{- define "mrcelery.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "mrcelery.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "mrcelery.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "mrcelery.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{/* Labels that select pods. Never change them: Kubernetes refuses changes. Takes {root, component, group}. */}}
{{- define "mrcelery.selector" -}}
app.kubernetes.io/name: {{ include "mrcelery.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- with .group }}
mrcelery/worker-group: {{ . }}
{{- end }}
{{- end -}}

{{/* All labels of an object. Takes {root, component, group, podLabels}. */}}
{{- define "mrcelery.labels" -}}
{{ include "mrcelery.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: mrcelery
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Name, namespace, labels, and annotations. Takes {root, name, component, group, annotations}. */}}
{{- define "mrcelery.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels: {{- include "mrcelery.labels" . | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* repository:tag or repository@digest. Takes {image, tag}; tag is the default. */}}
{{- define "mrcelery.image" -}}
{{- with .image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A worker group merged over the defaults in `workers`, as JSON. Takes {root, group}. */}}
{{- define "mrcelery.group" -}}
{{- mustMergeOverwrite (deepCopy .root.Values.workers) (deepCopy (index .root.Values.workerGroups .group | default dict)) | toJson -}}
{{- end -}}

{{/* "true" if the chart installs its own Redis. */}}
{{- define "mrcelery.ownRedis" -}}
{{- if and .Values.redis.enabled (not .Values.broker) (not .Values.brokerSecret.name) -}}true{{- end -}}
{{- end -}}

{{- define "mrcelery.redisSecret" -}}
{{- .Values.redis.auth.existingSecret | default (printf "%s-redis" (include "mrcelery.fullname" .)) -}}
{{- end -}}

{{/* Name and key of the secret that holds the broker's address, as JSON. Empty if the address is not a secret. */}}
{{- define "mrcelery.brokerSecret" -}}
{{- if .Values.brokerSecret.name -}}
{{- dict "name" .Values.brokerSecret.name "key" .Values.brokerSecret.key | toJson -}}
{{- else if include "mrcelery.ownRedis" . -}}
{{- dict "name" (include "mrcelery.redisSecret" .) "key" "broker" | toJson -}}
{{- end -}}
{{- end -}}

{{- define "mrcelery.signingSecret" -}}
{{- .Values.signing.existingSecret | default (printf "%s-signing" (include "mrcelery.fullname" .)) -}}
{{- end -}}

{{- define "mrcelery.flowerSecret" -}}
{{- .Values.flower.auth.existingSecret | default (printf "%s-flower" (include "mrcelery.fullname" .)) -}}
{{- end -}}

{{/* A secret's value from the cluster, or else a new one, in base64. Takes {root, name, key, new}. */}}
{{- define "mrcelery.kept" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .name -}}
{{- if and $found $found.data (hasKey $found.data .key) -}}
{{- index $found.data .key -}}
{{- else -}}
{{- .new | b64enc -}}
{{- end -}}
{{- end -}}

{{/* URL of the exporter within the cluster. */}}
{{- define "mrcelery.metricsUrl" -}}
{{- printf "http://%s-metrics.%s.svc:%d/metrics" (include "mrcelery.fullname" .) .Release.Namespace (int .Values.metrics.port) -}}
{{- end -}}

{{/* host:port of the broker for KEDA. Takes {root, redis}; redis is the group's keda.redis. */}}
{{- define "mrcelery.kedaAddress" -}}
{{- if .redis.address -}}
{{- .redis.address -}}
{{- else if include "mrcelery.ownRedis" .root -}}
{{- printf "%s-redis.%s.svc:6379" (include "mrcelery.fullname" .root) .root.Release.Namespace -}}
{{- else -}}
{{- $host := (urlParse .root.Values.broker).host -}}
{{- ternary $host (printf "%s:6379" $host) (contains ":" $host) -}}
{{- end -}}
{{- end -}}

{{/* Queue of the group `default`, or else of the first group by name. */}}
{{- define "mrcelery.firstQueue" -}}
{{- $names := keys .Values.workerGroups | sortAlpha -}}
{{- $name := ternary "default" (first $names) (has "default" $names) -}}
{{- (include "mrcelery.group" (dict "root" . "group" $name) | fromJson).queue -}}
{{- end -}}

{{/* "true" if KEDA reads Redis directly. */}}
{{- define "mrcelery.kedaAsksRedis" -}}
{{- range $name, $_ := .Values.workerGroups -}}
{{- $keda := (include "mrcelery.group" (dict "root" $ "group" $name) | fromJson).keda -}}
{{- if and $keda.enabled (eq $keda.trigger "redis") -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* Rights of mrcelery's Redis user: the commands it needs, on its own keys and on the queues. */}}
{{- define "mrcelery.redisAcl" -}}
{{ .Files.Get "files/redis-user.acl" | trim }}
{{- range $name, $_ := .Values.workerGroups }}
~{{ (include "mrcelery.group" (dict "root" $ "group" $name) | fromJson).queue }}*
{{- end }}
{{- end -}}
