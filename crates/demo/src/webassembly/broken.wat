;; What a bad day makes of the agent: it begins, so it can be deployed, and falls over with the first call.
(module
  (memory (export "memory") 2)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func (export "outlast:app/handler@0.1.0#handle")
    (param i32) (param i32 i32) (param i64) (param i32) (param i32) (param i32)
    (unreachable)))
