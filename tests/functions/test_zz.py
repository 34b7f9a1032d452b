async def test_x(gateway):
    r = await gateway.ask()
    print(r.headers, r.text)
    t = await gateway.stream()
    print(t.headers, t.body.decode())
    print(await gateway.ended(2))
