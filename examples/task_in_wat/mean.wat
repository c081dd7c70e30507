;; The smallest useful task: it learns the mean of a value by gradient descent.
;;   loss = (parameter - value)^2 / 2,  so each row moves  parameter -= learning_rate * difference
(module
  (memory (export "memory") 1 1)
  ;; Byte offsets, as mean.json declares them.
  (global $parameter i32 (i32.const 64))      ;; f32
  (global $learning_rate i32 (i32.const 68))  ;; f32
  (global $loss i32 (i32.const 72))           ;; f64
  (global $fault i32 (i32.const 80))          ;; i64
  (global $values i32 (i32.const 1024))       ;; f32[4096]
  (data (i32.const 68) "\cd\cc\cc\3d")        ;; learning_rate = 0.1

  (func (export "init") (param $seed i64) (result i32)
    (f32.store (global.get $parameter) (f32.const 0))
    (i32.const 0))

  (func (export "reset") (result i32)
    (f64.store (global.get $loss) (f64.const 0))
    (i64.store (global.get $fault) (i64.const -1))
    (i32.const 0))

  ;; Visits the rows; each moves the parameter by rate * difference and adds to the loss.
  (func $visit (param $rows i32) (param $rate f32) (result i32)
    (local $row i32) (local $difference f32)
    (if (i32.gt_u (local.get $rows) (i32.const 4096))
      (then (return (i32.const 1))))  ;; more rows than the buffer holds
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $row) (local.get $rows)))
        (local.set $difference
          (f32.sub
            (f32.load (global.get $parameter))
            (f32.load (i32.add (global.get $values) (i32.shl (local.get $row) (i32.const 2))))))
        (f64.store (global.get $loss)
          (f64.add
            (f64.load (global.get $loss))
            (f64.promote_f32
              (f32.mul (f32.const 0.5)
                (f32.mul (local.get $difference) (local.get $difference))))))
        (if (f32.ne (local.get $rate) (f32.const 0))  ;; 0: evaluation, which changes nothing
          (then
            (f32.store (global.get $parameter)
              (f32.sub
                (f32.load (global.get $parameter))
                (f32.mul (local.get $rate) (local.get $difference))))))
        (local.set $row (i32.add (local.get $row) (i32.const 1)))
        (br $next)))
    (i32.const 0))

  (func (export "train") (param $rows i32) (result i32)
    (call $visit (local.get $rows) (f32.load (global.get $learning_rate))))

  (func (export "evaluate") (param $rows i32) (result i32)
    (call $visit (local.get $rows) (f32.const 0)))

  (func (export "predict") (param $rows i32) (result i32)
    (i32.const 0)))  ;; no output: the parameter is the prediction
