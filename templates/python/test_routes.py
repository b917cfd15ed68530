import json
import unittest

import routes


class Routes(unittest.TestCase):
    def test_it_says_hello(self):
        self.assertEqual(routes.answer("/template-route"), (200, "text/plain", b"Hello, world!\n"))

    def test_it_greets_whom_the_path_names(self):
        status, content_type, content = routes.answer("/template-route/you?x=1")
        self.assertEqual((status, content_type, json.loads(content)), (200, "application/json", {"hello": "you"}))

    def test_what_it_does_not_know_is_not_found(self):
        self.assertEqual(routes.answer("/template-route/you/and/me")[0], 404)


if __name__ == "__main__":
    unittest.main()
