-- Who asks is asked once for a page of messages, not once for each of them.

ALTER POLICY reader ON messages
    USING ((SELECT symbia.bypass()) OR EXISTS (
        SELECT FROM participants p
        WHERE p.org_id = messages.org_id AND p.conversation_id = messages.conversation_id
          AND p.user_id = (SELECT symbia.actor())));
ALTER POLICY reader ON conversations
    USING ((SELECT symbia.bypass()) OR EXISTS (
        SELECT FROM participants p
        WHERE p.org_id = conversations.org_id AND p.conversation_id = conversations.id
          AND p.user_id = (SELECT symbia.actor())));
