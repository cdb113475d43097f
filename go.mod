module github.com/redislock-operator/redislock-operator

go 1.26.0
