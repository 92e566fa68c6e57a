"""The revisions of the protocol, of which only the newer client knows more than one."""

from server import Server


async def test_a_client_that_still_shakes_hands_sees_the_same_tools(server: Server) -> None:
    async with server.connect() as session:
        newest = session.protocol, await session.tools()
    async with server.connect(handshake=True) as session:
        handshake = session.protocol, await session.tools()
    assert newest[0] > handshake[0]
    assert newest[1] == handshake[1]
