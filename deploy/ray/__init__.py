"""The service as a Ray Serve application: `application` builds it from `options`; `autoscaling` scales it."""
