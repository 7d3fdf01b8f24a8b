{{/* Checks that the schema cannot express. Each error has one problem and one remedy. */}}
{{- define "mrcelery.validate" -}}
{{- $v := .Values -}}
{{- range $name := list "broker" "resultBackend" -}}
{{- with index $v $name -}}
{{- if regexMatch "^[a-z+]+://[^/@]*:[^/@]*@" . -}}
{{- fail (printf "%s contains a password, which the release would show in plain text: put the address into a secret and name that in brokerSecret.name" $name) -}}
{{- end -}}
{{- if not (regexMatch "^(redis|rediss|sentinel|redis\\+socket)://." .) -}}
{{- fail (printf "%s %q is not a Redis address: write redis://host:6379/0 or rediss://host:6379/0" $name .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $v.broker $v.brokerSecret.name -}}
{{- fail "broker and brokerSecret.name are both set: keep one" -}}
{{- end -}}
{{- if not (or $v.broker $v.brokerSecret.name $v.redis.enabled) -}}
{{- fail "no Redis is configured: set broker or brokerSecret.name, or set redis.enabled=true to install a small one" -}}
{{- end -}}
{{- with $v.storage -}}
{{- if not (regexMatch "^(s3://[^/]|/|file:///)." .) -}}
{{- fail (printf "storage %q is not supported: write s3://bucket/prefix, or a folder such as /mnt/mrcelery" .) -}}
{{- end -}}
{{- end -}}
{{- if and $v.s3.kmsKeyId (not (hasPrefix "aws:kms" $v.s3.encryption)) -}}
{{- fail "s3.kmsKeyId is set, but s3.encryption is not aws:kms: set s3.encryption=aws:kms, or leave the key to the bucket's default encryption" -}}
{{- end -}}
{{- if and $v.trustedCA.secretName $v.trustedCA.configMapName -}}
{{- fail "trustedCA.secretName and trustedCA.configMapName are both set: keep one" -}}
{{- end -}}
{{- range $name, $_ := $v.workerGroups -}}
{{- $group := include "mrcelery.group" (dict "root" $ "group" $name) | fromJson -}}
{{- $where := printf "workerGroups.%s" $name -}}
{{- if lt (int $group.terminationGracePeriodSeconds) (add 10 (int $group.softShutdownSeconds) | int) -}}
{{- fail (printf "%s: terminationGracePeriodSeconds (%d) must be at least ten seconds more than softShutdownSeconds (%d), or pods are killed before they requeue their tasks" $where (int $group.terminationGracePeriodSeconds) (int $group.softShutdownSeconds)) -}}
{{- end -}}
{{- if and $group.keda.enabled $group.hpa.enabled -}}
{{- fail (printf "%s enables both keda and hpa, which would fight for its replicas: keep one" $where) -}}
{{- end -}}
{{- range $scaler := list "keda" "hpa" -}}
{{- $s := index $group $scaler -}}
{{- if and $s.enabled (gt (int $s.minReplicas) (int $s.maxReplicas)) -}}
{{- fail (printf "%s: %s.minReplicas (%d) is more than %s.maxReplicas (%d): lower the minimum" $where $scaler (int $s.minReplicas) $scaler (int $s.maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- if $group.keda.enabled -}}
{{- if and (eq $group.keda.trigger "metrics") (not $v.metrics.enabled) -}}
{{- fail (printf "%s: keda.trigger metrics reads the chart's exporter, which is off: set metrics.enabled=true, or another trigger" $where) -}}
{{- end -}}
{{- if and (eq $group.keda.trigger "prometheus") (not $group.keda.prometheus.serverAddress) -}}
{{- fail (printf "%s: keda.trigger prometheus needs keda.prometheus.serverAddress: set it to the URL of Prometheus" $where) -}}
{{- end -}}
{{- if and (eq $group.keda.trigger "redis") (not $group.keda.redis.address) $v.brokerSecret.name -}}
{{- fail (printf "%s: keda.trigger redis cannot read the address in brokerSecret: set keda.redis.address to host:port" $where) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $v.flower.enabled $v.flower.ingress.enabled (eq $v.flower.auth.type "none") (not $v.flower.auth.external) -}}
{{- fail "flower.ingress is enabled without a login: set flower.auth.type=basic, or flower.auth.external=true if a proxy asks for the login" -}}
{{- end -}}
{{- if and $v.clean.enabled (not $v.storage) -}}
{{- fail "clean.enabled needs a storage to clean: set storage" -}}
{{- end -}}
{{- end -}}
