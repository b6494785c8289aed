"""The exercise checks: one module a lesson, named by its topic; `core` is what they share, `progress` what they keep.

    from course_lib.checks import losses as check

    check.softmax_cross_entropy(softmax_cross_entropy)  # prints: passed, not attempted yet, or what is wrong

Everything here runs on the learner's machine and needs no network.
"""
