;; A back-to-back agent as a WebAssembly module, in text, so that whoever builds it needs no compiler for WebAssembly.
;;
;; A call to sip:USER@LABEL.DOMAIN becomes one to sip:USER@DOMAIN; from then on what one side asks, the other is asked, and
;; the answer goes back. OPTIONS in the call it answers itself: its Server says which version has the call. (0.0.0 below is
;; replaced by that version.)
;;
;; The functions are those of wit/, flat: a text or a list is an address and a length, a record its fields, an option 0 or 1
;; and what it holds. What is more than one value, the host writes to the address that is the last argument; of a `result`
;; the first octet there is 0 if all is well. An instance lives for one event, so nothing is ever freed, and whatever goes
;; wrong is a trap: then nothing has happened, and the caller is answered 500.
;;
;; Deliberately absent: headers of the first INVITE (only its body goes on), Require, timers.
(module
  (import "outlast:app/message@0.1.0" "[method]message.method"
    (func $method (param $message i32) (param $to i32)))
  (import "outlast:app/message@0.1.0" "[method]message.request-uri"
    (func $request_uri (param $message i32) (param $to i32)))
  (import "outlast:app/message@0.1.0" "[method]message.address"
    (func $address (param $message i32) (param $name i32) (param $name_length i32) (param $to i32)))
  (import "outlast:app/message@0.1.0" "[method]message.body"
    (func $body (param $message i32) (param $to i32)))
  (import "outlast:app/sip@0.1.0" "invite"
    (func $invite (param $leg i32) (param i32) (param $target i32) (param i32) (param $from i32) (param i32)
      (param $to i32) (param i32) (param $headers i32) (param i32) (param $body i32) (param i32 i32 i32 i32) (param i32)))
  (import "outlast:app/sip@0.1.0" "link"
    (func $link (param $a i32) (param i32) (param $b i32) (param i32) (param i32)))
  (import "outlast:app/sip@0.1.0" "relay" (func $relay (param i32)))
  (import "outlast:app/sip@0.1.0" "respond"
    (func $respond (param $request i64) (param $status i32) (param $reason i32) (param i32)
      (param $headers i32) (param i32) (param $body i32) (param i32 i32 i32 i32) (param i32)))

  ;; From 0: what the host answers. From 65,536: texts that are put together. From 262,144: what the host hands in.
  (memory (export "memory") 8)
  (global $written (mut i32) (i32.const 65536))
  (global $handed_in (mut i32) (i32.const 262144))
  (global $result i32 (i32.const 0))      ;; of what can be refused
  (global $uri i32 (i32.const 64))        ;; option<uri>: user at 12, host at 20
  (global $from i32 (i32.const 128))      ;; option<address>: the text of its URI at 48
  (global $content i32 (i32.const 192))   ;; option<body>: type at 4, octets at 12
  (global $name i32 (i32.const 256))      ;; of a method
  (global $headers i32 (i32.const 320))   ;; one header: name at 0, value at 8

  (data (i32.const 1024) "caller")
  (data (i32.const 1032) "callee")
  (data (i32.const 1040) "From")
  (data (i32.const 1048) "sip:")
  (data (i32.const 1056) "@")
  (data (i32.const 1057) "<")
  (data (i32.const 1058) ">")
  (data (i32.const 1064) "Server")
  (data (i32.const 1072) "demo-agent/0.0.0")

  ;; The host asks where it may put something: behind what it put there before, at a multiple of eight.
  (func (export "cabi_realloc") (param i32 i32 i32) (param $length i32) (result i32)
    (global.get $handed_in)
    (global.set $handed_in (i32.and (i32.const -8)
      (i32.add (global.get $handed_in) (i32.add (local.get $length) (i32.const 7))))))

  ;; An event: its case, then its fields; those of a request have these names.
  (func (export "outlast:app/handler@0.1.0#handle")
    (param $event i32) (param $leg i32) (param i32) (param $request i64) (param $initial i32)
    (param $message i32) (param i32)
    (if (i32.ne (local.get $event) (i32.const 1)) (then
      ;; No request: an answer, an ACK, a CANCEL, a failure. Refused if nobody waits for it; then it is nobody's.
      (call $relay (global.get $result))
      (return)))
    (if (local.get $initial) (then
      (call $begin (local.get $message))
      (return)))
    (call $method (local.get $message) (global.get $name))
    (if (i32.eq (i32.load8_u (i32.load (global.get $name))) (i32.const 0x4f)) (then  ;; O, so it is OPTIONS
      (call $answer (local.get $request) (i32.const 200))
      (return)))
    (call $relay (global.get $result))
    (if (i32.load8_u (global.get $result)) (then
      ;; The other side has an earlier one to answer.
      (call $answer (local.get $request) (i32.const 500)))))

  ;; The caller's INVITE: the callee is called, and both legs are linked.
  (func $begin (param $message i32)
    (local $target i32) (local $target_end i32) (local $from_end i32)
    (call $request_uri (local.get $message) (global.get $uri))
    (call $address (local.get $message) (i32.const 1040) (i32.const 4) (global.get $from))
    (call $body (local.get $message) (global.get $content))
    ;; What is there when it is none ends the event.
    (if (i32.eqz (i32.load8_u (global.get $from))) (then (unreachable)))
    ;; sip:USER@DOMAIN
    (local.set $target (global.get $written))
    (call $put (i32.const 1048) (i32.const 4))
    (call $put (i32.load offset=12 (global.get $uri)) (i32.load offset=16 (global.get $uri)))
    (call $put (i32.const 1056) (i32.const 1))
    (call $put_domain (i32.load offset=20 (global.get $uri)) (i32.load offset=24 (global.get $uri)))
    (local.set $target_end (global.get $written))
    ;; <FROM>
    (call $put (i32.const 1057) (i32.const 1))
    (call $put (i32.load offset=48 (global.get $from)) (i32.load offset=52 (global.get $from)))
    (call $put (i32.const 1058) (i32.const 1))
    (local.set $from_end (global.get $written))
    ;; <sip:USER@DOMAIN>
    (call $put (i32.const 1057) (i32.const 1))
    (call $put (local.get $target) (i32.sub (local.get $target_end) (local.get $target)))
    (call $put (i32.const 1058) (i32.const 1))
    (call $invite
      (i32.const 1032) (i32.const 6)
      (local.get $target) (i32.sub (local.get $target_end) (local.get $target))
      (local.get $target_end) (i32.sub (local.get $from_end) (local.get $target_end))
      (local.get $from_end) (i32.sub (global.get $written) (local.get $from_end))
      (i32.const 0) (i32.const 0)
      (i32.load8_u (global.get $content))
      (i32.load offset=4 (global.get $content)) (i32.load offset=8 (global.get $content))
      (i32.load offset=12 (global.get $content)) (i32.load offset=16 (global.get $content))
      (global.get $result))
    (call $must)
    (call $link (i32.const 1024) (i32.const 6) (i32.const 1032) (i32.const 6) (global.get $result))
    (call $must))

  ;; Answers a request and says who it is.
  (func $answer (param $request i64) (param $status i32)
    (i32.store (global.get $headers) (i32.const 1064))
    (i32.store offset=4 (global.get $headers) (i32.const 6))
    (i32.store offset=8 (global.get $headers) (i32.const 1072))
    (i32.store offset=12 (global.get $headers) (i32.const 16))
    (call $respond (local.get $request) (local.get $status) (i32.const 0) (i32.const 0)
      (global.get $headers) (i32.const 1)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
      (global.get $result))
    (call $must))

  ;; Writes a text behind what was written before.
  (func $put (param $text i32) (param $length i32)
    (memory.copy (global.get $written) (local.get $text) (local.get $length))
    (global.set $written (i32.add (global.get $written) (local.get $length))))

  ;; Writes what stands behind the first dot of a host.
  (func $put_domain (param $host i32) (param $length i32)
    (loop $next
      (if (i32.eqz (local.get $length)) (then (unreachable)))
      (local.set $length (i32.sub (local.get $length) (i32.const 1)))
      (local.set $host (i32.add (local.get $host) (i32.const 1)))
      (br_if $next (i32.ne (i32.const 0x2e) (i32.load8_u (i32.sub (local.get $host) (i32.const 1))))))
    (call $put (local.get $host) (local.get $length)))

  ;; What was asked of the host last must not have been refused.
  (func $must
    (if (i32.load8_u (global.get $result)) (then (unreachable)))))
