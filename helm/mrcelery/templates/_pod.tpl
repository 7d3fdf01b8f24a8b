{{/* Variables of all of mrcelery's containers. Secrets are passed by reference only. Takes root. */}}
{{- define "mrcelery.env" -}}
{{- with include "mrcelery.brokerSecret" . }}
{{- $secret := fromJson . }}
- name: MRCELERY_BROKER
  valueFrom: {secretKeyRef: {name: {{ $secret.name }}, key: {{ $secret.key }}}}
{{- end }}
{{- if and .Values.brokerSecret.name .Values.brokerSecret.resultBackendKey }}
- name: MRCELERY_RESULT_BACKEND
  valueFrom: {secretKeyRef: {name: {{ .Values.brokerSecret.name }}, key: {{ .Values.brokerSecret.resultBackendKey }}}}
{{- end }}
{{- if .Values.signing.enabled }}
- name: MRCELERY_SIGNING_KEY
  valueFrom: {secretKeyRef: {name: {{ include "mrcelery.signingSecret" . }}, key: {{ .Values.signing.key }}}}
{{- end }}
{{- with .Values.s3.credentialsSecret }}
{{- if .name }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .accessKeyIdKey }}}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .secretAccessKeyKey }}}}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Takes root. */}}
{{- define "mrcelery.envFrom" -}}
- configMapRef: {name: {{ include "mrcelery.fullname" . }}}
{{- with .Values.extraEnvFrom }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* One volume for all writes: /scratch, and /tmp for jobs that insist on it. Takes root. */}}
{{- define "mrcelery.volumeMounts" -}}
- {name: scratch, mountPath: /scratch}
- {name: scratch, mountPath: /tmp}
{{- if or .Values.trustedCA.secretName .Values.trustedCA.configMapName }}
- {name: trusted-ca, mountPath: /etc/mrcelery/ca, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Takes {root, scratch}. */}}
{{- define "mrcelery.volumes" -}}
{{- with .scratch }}
- name: scratch
{{- if .storageClassName }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        accessModes: [ReadWriteOnce]
        storageClassName: {{ .storageClassName }}
        resources: {requests: {storage: {{ .sizeLimit }}}}
{{- else }}
  emptyDir:
    sizeLimit: {{ .sizeLimit }}
    {{- with .medium }}
    medium: {{ . }}
    {{- end }}
{{- end }}
{{- end }}
{{- with .root.Values.trustedCA }}
{{- if .secretName }}
- name: trusted-ca
  secret: {secretName: {{ .secretName }}, items: [{key: {{ .key }}, path: ca.crt}]}
{{- else if .configMapName }}
- name: trusted-ca
  configMap: {name: {{ .configMapName }}, items: [{key: {{ .key }}, path: ca.crt}]}
{{- end }}
{{- end }}
{{- with .root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* A changed ConfigMap rolls the pods. Takes {root, part, annotations}; part has podAnnotations. */}}
{{- define "mrcelery.podAnnotations" -}}
checksum/config: {{ include (print .root.Template.BasePath "/configmap.yaml") .root | sha256sum }}
{{- with merge (dict) (.annotations | default dict) (.part.podAnnotations | default dict) .root.Values.commonAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Takes {root, component, group, part}. */}}
{{- define "mrcelery.podLabels" -}}
{{ include "mrcelery.labels" . }}
{{- with .part.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Identity, security, and placement of a pod. Takes {root, part}. */}}
{{- define "mrcelery.podSpec" -}}
serviceAccountName: {{ .part.serviceAccountName | default (include "mrcelery.serviceAccountName" .root) }}
automountServiceAccountToken: {{ .root.Values.serviceAccount.automount }}
{{- include "mrcelery.placing" . }}
securityContext: {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- end -}}

{{/* Takes {root, part}. */}}
{{- define "mrcelery.placing" }}
# A service named flower would set FLOWER_PORT, which Flower reads as its own setting.
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- range $name := list "priorityClassName" "runtimeClassName" "schedulerName" }}
{{- with index $.part $name }}
{{ $name }}: {{ . }}
{{- end }}
{{- end }}
{{- range $name := list "nodeSelector" "tolerations" "affinity" "hostAliases" "dnsConfig" }}
{{- with index $.part $name }}
{{ $name }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Image, security, and environment of a container. Takes {root, image, extraEnv, extraEnvFrom}. */}}
{{- define "mrcelery.container" -}}
{{- $image := mustMergeOverwrite (deepCopy .root.Values.image) (.image | default dict) -}}
image: {{ include "mrcelery.image" (dict "image" $image "tag" .root.Chart.AppVersion) }}
imagePullPolicy: {{ $image.pullPolicy }}
securityContext: {{- toYaml .root.Values.containerSecurityContext | nindent 2 }}
envFrom:
  {{- include "mrcelery.envFrom" .root | nindent 2 }}
  {{- with .extraEnvFrom }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $env := include "mrcelery.env" .root | trim }}
{{- if or $env .extraEnv }}
env:
  {{- with $env }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}
